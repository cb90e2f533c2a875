package indexes

import (
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// node is a table of a tree of partitions, or a table that has none.
type node struct {
	OID          uint32
	Parent       uint32 // 0: the one that was asked for
	Schema, Name string
	Kind         string // pg_class.relkind
	Level        int
	Pending      bool // its detach has not ended; such a one is left out
	Owner        string
	Owned        bool // the session's role has the owner's rights
	Member       bool // it may take the owner's role
	MayCreate    bool // it may make objects in the schema
	Bytes        int64
	Rows         float64 // negative: not known
}

func (n node) partitioned() bool { return n.Kind == "p" }

func (n node) ident() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

func (n node) String() string { return displayName(n.Schema, n.Name) }

// situation is what a plan for one table is made from.
type situation struct {
	nodes    []node              // parents first
	indexes  map[uint32][]Index  // by table
	attached map[uint32][]*Index // by the partitioned index that they are attached to
	builders map[uint32]string   // who holds, or waits for, the lock of a build on a table
	taken    map[string]bool     // names of relations, by schema and name
	bare     map[uint32]bool     // indexes on expressions that have no statistics
}

// free says whether a relation may be given the name.
func (s situation) free(schema, name string, freed map[string]bool) bool {
	return !s.taken[schema+nameSeparator+name] || freed[schema+nameSeparator+name]
}

// nameSeparator stands between schema and name in keys of situation.taken.
const nameSeparator = "\x01"

func (s situation) root() node { return s.nodes[0] }

// leaves are the nodes that hold rows.
func (s situation) leaves() []node {
	return slices.DeleteFunc(slices.Clone(s.nodes), node.partitioned)
}

func (s situation) all() (all []Index) {
	for _, n := range s.nodes {
		all = append(all, s.indexes[n.OID]...)
	}
	return all
}

// below are the indexes that are attached to i, at any depth.
func (s situation) below(i Index) (below []Index) {
	for _, one := range s.attached[i.OID] {
		below = append(append(below, *one), s.below(*one)...)
	}
	return below
}

// tree is the node at position n with all below it. Nodes come by level.
func (s situation) tree(n int) []node {
	tree := []node{s.nodes[n]}
	in := map[uint32]bool{s.nodes[n].OID: true}
	for _, one := range s.nodes[n+1:] {
		if one.Level > 0 && in[one.Parent] {
			in[one.OID] = true
			tree = append(tree, one)
		}
	}
	return tree
}

// alike says whether i and all that is attached to it are as d: PostgreSQL attaches indexes of another order, too. odd is the first that is not.
func (s situation) alike(i Index, d Definition) (odd *Index) {
	if !i.Equal(d) {
		return &i
	}
	for _, one := range s.below(i) {
		if !one.Equal(d) {
			return &one
		}
	}
	return nil
}

// freeName is the name for a new index d that nothing has.
func (s situation) freeName(d Definition, freed map[string]bool) string {
	for salt := range salts {
		if name := d.ownName(salt); s.free(d.Schema, name, freed) {
			return name
		}
	}
	return d.ownName(salts)
}

const salts = 3

// ours says whether an index has a name that this program gives: to d on the index's table, or as REINDEX CONCURRENTLY names its copies of it.
func (i Index) ours(d Definition) bool {
	name := i.Name
	if base, copied := i.reindexed(); copied {
		name = base
	}
	if d.Schema == i.Schema && d.Table == i.Table && name == d.IndexName() {
		return true
	}
	here := d.On(i.Schema, i.Table)
	for salt := range salts + 1 {
		if here.ownName(salt) == name {
			return true
		}
	}
	return false
}

// reindexed says whether the index looks like what an interrupted REINDEX CONCURRENTLY of base leaves behind.
func (i Index) reindexed() (base string, ok bool) {
	at := regexp.MustCompile(`_cc(new|old)\d*$`).FindStringIndex(i.Name)
	if at == nil {
		return "", false
	}
	return strings.Clone(i.Name[:at[0]]), true
}
