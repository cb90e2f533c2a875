package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"auditdb/pkg/audit"
)

// pathNode is a step of the paths that a mapping reads: they are looked up together, in one pass over the record.
type pathNode struct {
	key      []byte // a member's name as canonical text has it, without quotes
	index    int    // the same step as an array's index, -1 when it cannot be one
	slot     int    // where the value goes, -1: only the way to others
	children []*pathNode
}

func newPathNode(key string) *pathNode {
	quoted, _ := audit.CanonicalJSON(nil, appendJSONText(nil, []byte(key))) // checked by splitPath
	n := &pathNode{key: quoted[1 : len(quoted)-1], index: -1, slot: -1}
	if i, err := strconv.Atoi(key); err == nil && i >= 0 && strconv.Itoa(i) == key {
		n.index = i
	}
	return n
}

// at returns the node that steps lead to, and makes it where it is missing.
func (n *pathNode) at(steps []string) *pathNode {
	for _, step := range steps {
		child := newPathNode(step)
		if i := slices.IndexFunc(n.children, func(c *pathNode) bool { return bytes.Equal(c.key, child.key) }); i >= 0 {
			child = n.children[i]
		} else {
			n.children = append(n.children, child)
		}
		n = child
	}
	return n
}

// collect puts the values below value, a piece of canonical text, into slots.
func (n *pathNode) collect(value []byte, slots [][]byte) {
	if n.slot >= 0 {
		slots[n.slot] = value
	}
	if len(n.children) == 0 || len(value) == 0 {
		return
	}
	switch value[0] {
	case '{':
		for key, member := range canonicalMembers(value) {
			for _, c := range n.children {
				if bytes.Equal(c.key, key) {
					c.collect(member, slots)
				}
			}
		}
	case '[':
		n.collectElements(value, slots)
	}
}

func (n *pathNode) collectElements(array []byte, slots [][]byte) {
	last := -1
	for _, c := range n.children {
		last = max(last, c.index)
	}
	for i, pos := 0, 1; i <= last && pos < len(array) && array[pos] != ']'; i++ {
		end := valueEnd(array, pos)
		for _, c := range n.children {
			if c.index == i {
				c.collect(array[pos:end:end], slots)
			}
		}
		pos = end + len(", ")
	}
}

// without appends value, a piece of canonical text, without the members that n's slots name.
func (n *pathNode) without(dst, value []byte) []byte {
	if len(n.children) == 0 || len(value) == 0 || value[0] != '{' {
		return append(dst, value...)
	}
	dst = append(dst, '{')
	start := len(dst)
members:
	for key, member := range canonicalMembers(value) {
		var below *pathNode
		for _, c := range n.children {
			if !bytes.Equal(c.key, key) {
				continue
			}
			if c.slot >= 0 {
				continue members
			}
			below = c
		}
		if len(dst) > start {
			dst = append(dst, ", "...)
		}
		dst = append(append(append(dst, '"'), key...), `": `...)
		if below == nil {
			dst = append(dst, member...)
		} else {
			dst = below.without(dst, member)
		}
	}
	return append(dst, '}')
}

var errPath = errors.New("an empty step: paths are written a.b.0, with \\ before a dot that belongs to a name")

// splitPath cuts a path such as "user.names.0" or `\@timestamp` into its steps. It is the plain part of gjson's syntax: dots separate,
// a backslash takes the next character as it is. What has another meaning there is refused, not taken literally.
func splitPath(path string) ([]string, error) {
	var steps []string
	var step []byte
	for i := 0; i < len(path); i++ {
		ch := path[i]
		switch {
		case ch == '\\':
			if i++; i == len(path) {
				return nil, errors.New("the path ends with a backslash")
			}
			step = append(step, path[i])
			continue
		case ch == '.':
			if len(step) == 0 {
				return nil, errPath
			}
			steps, step = append(steps, string(step)), nil
			continue
		case bytes.IndexByte([]byte("*?|#"), ch) >= 0, len(step) == 0 && bytes.IndexByte([]byte("@!{["), ch) >= 0:
			return nil, fmt.Errorf(`%q is no part of a plain path: write \%c for the character itself, or use jq`, ch, ch)
		}
		step = append(step, ch)
	}
	if len(step) == 0 {
		return nil, errPath
	}
	steps = append(steps, string(step))
	for _, s := range steps {
		if !isStorable([]byte(s)) {
			return nil, errors.New("the path is not UTF-8 text")
		}
	}
	return steps, nil
}
