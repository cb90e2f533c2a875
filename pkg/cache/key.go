package cache

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// Key names a value: a scope that people can read, by which values are dropped together, and a digest of everything that the value
// depends on. What a value depends on belongs into its key, so that a value under a key can never be wrong, only unused.
type Key struct {
	scope  string
	digest [sha256.Size]byte
}

// Key makes the key of what depends on scope and parts, in their order. Scopes are levels with slashes between them, from the widest
// to the narrowest, such as the database's and a table's: Drop drops a scope with all below it.
func (n *Namespace) Key(scope string, parts ...string) Key {
	scope = cleanScope(scope)
	h := sha256.New()
	var length [8]byte
	add := func(s string) {
		binary.BigEndian.PutUint64(length[:], uint64(len(s)))
		_, _ = h.Write(length[:]) // a hash takes everything
		_, _ = h.Write([]byte(s))
	}
	if n != nil {
		add(n.name)
	}
	add(scope)
	for _, p := range parts {
		add(p)
	}
	k := Key{scope: scope}
	h.Sum(k.digest[:0])
	return k
}

// cleanScope keeps what may stand in the name of a value in Redis.
func cleanScope(scope string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '/', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, strings.Trim(scope, "/"))
}

// within says whether a scope is wide or lies below it; every scope lies below "".
func within(scope, wide string) bool {
	return wide == "" || scope == wide || strings.HasPrefix(scope, wide+"/")
}

// shards is how many parts the values in Redis are divided into, each with its index in one slot of a Redis Cluster.
const shards = 16

const hexDigits = "0123456789abcdef"

// shard is the part of Redis that holds the key's value.
func (k Key) shard() int { return int(k.digest[0] % shards) }

// member names the value within its shard.
func (k Key) member(namespace string) string {
	return namespace + ":" + k.scope + ":" + base64.RawURLEncoding.EncodeToString(k.digest[:])
}

// parseMember takes a member apart.
func parseMember(member string) (namespace, scope string, ok bool) {
	namespace, rest, ok := strings.Cut(member, ":")
	if !ok {
		return "", "", false
	}
	scope, _, ok = strings.Cut(rest, ":")
	return namespace, scope, ok
}
