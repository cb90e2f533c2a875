package integrity

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// trust is what a verifier holds for keys of the log: those that it was given, and those that they vouch for.
type trust struct {
	given      []*PublicKey
	known      map[string]*PublicKey // by vkey
	pending    map[string]*PublicKey // in records that no checkpoint under a known key covers yet
	everything bool                  // a given key has signed the whole log, with every key record in it
	withoutMAC map[string]int64      // records by keys of the log whose secret is not at hand
}

func newTrust(keys *Keys, public *PublicKey) trust {
	t := trust{known: map[string]*PublicKey{}, pending: map[string]*PublicKey{}, withoutMAC: map[string]int64{}}
	if keys != nil {
		for _, k := range keys.all() {
			t.given = append(t.given, k.pub)
		}
	}
	if public != nil {
		t.given = append(t.given, public)
	}
	for _, p := range t.given {
		t.known[p.Encode()] = p
	}
	return t
}

// newest tells whether a given key has signed the log's newest checkpoint. Then all that the log says of other keys is covered by it.
func (t *trust) newest(signed string) bool {
	for _, p := range t.given {
		if _, _, err := p.Verify(signed); err == nil {
			t.everything = true
		}
	}
	return t.everything
}

// learn takes a key out of its record: at once where the record is authenticated by a secret, else with the next checkpoint.
func (t *trust) learn(r Record, authenticated bool) {
	b, ok := r.Body.(*Key)
	if !ok {
		return
	}
	p, err := ParsePublic(b.Public)
	if err != nil {
		return
	}
	if authenticated || t.everything {
		t.known[p.Encode()] = p
	} else if t.known[p.Encode()] == nil {
		t.pending[p.Encode()] = p
	}
}

// verify checks that a known key which counts has signed a checkpoint of the log. What the log says of further keys is then known too.
func (t *trust) verify(c *control, signed string) error {
	err := errors.New("it is signed by no key of the log that is known")
	for _, id := range slices.Sorted(maps.Keys(c.keys)) {
		p := t.known[c.keys[id].Public]
		if p == nil {
			continue
		}
		_, _, verr := p.Verify(signed)
		if verr == nil {
			maps.Copy(t.known, t.pending)
			clear(t.pending)
			return nil
		}
		err = verr
	}
	if len(c.keys)+len(c.retired) > 0 {
		return err
	}
	return t.verifyAny(signed) // the key records are lost
}

// verifyAny checks that some known key has signed an external checkpoint, whether it counts still or not.
func (t *trust) verifyAny(signed string) error {
	err := errors.New("no key is known")
	for _, vkey := range slices.Sorted(maps.Keys(t.known)) {
		_, _, verr := t.known[vkey].Verify(signed)
		if verr == nil {
			return nil
		}
		err = verr
	}
	return err
}

// missing names the keys of the log whose secret is not at hand.
func (t *trust) missing() string {
	var out []string
	for _, id := range slices.SortedFunc(maps.Keys(t.withoutMAC), cmp.Compare[string]) {
		out = append(out, fmt.Sprintf("key %s of %d records", id, t.withoutMAC[id]))
	}
	return strings.Join(out, ", ")
}
