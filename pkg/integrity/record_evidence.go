package integrity

// newEvidence makes the bodies of the records about rows that left, data that was erased, and how the log itself went on.
func newEvidence(k Kind) Body {
	switch k {
	case KindExpire:
		return &Expire{}
	case KindRedact:
		return &Redact{}
	case KindArchive:
		return &Archive{}
	case KindRestore:
		return &Restore{}
	case KindHold:
		return &Hold{}
	case KindPolicy:
		return &Policy{}
	case KindRecovery:
		return &Recovery{}
	case KindRevoke:
		return &Revoke{}
	}
	return nil
}

// Expire says that rows of a leaf set are gone for good: their ids are in auditdb.expired, and their leaves stay in the leaf store.
type Expire struct {
	Table     int16
	Partition PartitionRef // where the rows were
	Leaf      int64        // the leaf set's record
	Set       LeafRoot     // the rows, as a leaf set of their own
}

// Kind returns KindExpire.
func (*Expire) Kind() Kind { return KindExpire }

func (b *Expire) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.count("leaf", &b.Leaf)
	b.Set.lines(c)
}

// MaxRedacted is the largest number of rows that one redact record covers.
const MaxRedacted = 10_000

// Redact says that the personal columns and the salts of rows were erased. Which rows, and the commitments to what was erased, are in
// auditdb.redaction under the record's number.
type Redact struct {
	Table int16
	Token string   // 16 random bytes in hex, which name the erasure and nobody's data
	Rows  int64    // 1 to MaxRedacted
	Root  [32]byte // RFC 6962 over the list in the order of ids, each entry hashed by redactionLeaf
}

// Kind returns KindRedact.
func (*Redact) Kind() Kind { return KindRedact }

func (b *Redact) lines(c *codec) {
	c.table(&b.Table)
	c.hexString("token", &b.Token, 2*tokenBytes)
	c.count("rows", &b.Rows)
	if c.err == nil && (b.Rows < 1 || b.Rows > MaxRedacted) {
		c.fail("%d rows", b.Rows)
	}
	c.hash("root", &b.Root)
}

// Archive says that a partition was copied to an object that was read back.
type Archive struct {
	Table      int16
	Partition  PartitionRef
	Generation int64  // from 1
	URL        string // without secrets
	Rows       int64
	Bytes      int64    // of the object
	Digest     [32]byte // SHA-256 of the object
	Root       [32]byte // over the leaves of all of its rows in the order of ids
	LogSize    int64    // records that the copy knew
}

// Kind returns KindArchive.
func (*Archive) Kind() Kind { return KindArchive }

func (b *Archive) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.positive("generation", &b.Generation)
	c.str("url", &b.URL)
	c.count("rows", &b.Rows)
	c.count("bytes", &b.Bytes)
	c.hash("sha256", &b.Digest)
	c.hash("root", &b.Root)
	c.count("log_size", &b.LogSize)
}

// Restore says that the rows of a pruned partition are back.
type Restore struct {
	Table      int16
	Partition  PartitionRef
	OID        int64 // the relation's oid where it is a table of its own; 0: it was attached
	Generation int64 // of the archive that they came from
	Rows       int64
	Root       [32]byte // as in the archive's record
}

// Kind returns KindRestore.
func (*Restore) Kind() Kind { return KindRestore }

func (b *Restore) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.count("oid", &b.OID)
	c.positive("generation", &b.Generation)
	c.count("rows", &b.Rows)
	c.hash("root", &b.Root)
}

// The events of hold and policy records.
const (
	EventAdded    = "added"
	EventReleased = "released"
	EventSet      = "set"
	EventRemoved  = "removed"
)

// Hold says that a legal hold was added or released. Whom it is about is personal, and the log keeps everything: so it holds only a
// commitment to that, whose salt stands with the hold.
type Hold struct {
	ID     int64 // auditdb.hold
	Event  string
	Commit [32]byte // SHA-256 over a salt of 16 bytes and the text of the hold
}

// Kind returns KindHold.
func (*Hold) Kind() Kind { return KindHold }

func (b *Hold) lines(c *codec) {
	c.positive("hold", &b.ID)
	c.oneOf("event", &b.Event, EventAdded, EventReleased)
	c.hash("commit", &b.Commit)
}

// Policy says that a retention policy was set or removed.
type Policy struct {
	Table      int16
	Name       string
	Event      string
	Definition string // what was set, as it is shown; empty when it was removed
}

// Kind returns KindPolicy.
func (*Policy) Kind() Kind { return KindPolicy }

func (b *Policy) lines(c *codec) {
	c.table(&b.Table)
	c.str("name", &b.Name)
	c.oneOf("event", &b.Event, EventSet, EventRemoved)
	c.str("definition", &b.Definition)
}

// The events of a recovery record.
const (
	EventLoss     = "loss"     // records up to Size that external checkpoints cover are lost, and that was accepted
	EventFork     = "fork"     // the log goes on under another origin, on a server that is a copy
	EventMoved    = "moved"    // the log goes on under its origin on another server, which took the place of the old one
	EventTimeline = "timeline" // the server has begun a new timeline: after a failover or a point-in-time recovery
)

// Recovery says where the log went on after the server under it had changed.
type Recovery struct {
	Event    string
	After    int64  // loss: how many records the log surely has in common with the one that is lost; else 0
	Size     int64  // loss: the largest external checkpoint that is given up; else 0
	Origin   string // the log's name from here on
	System   uint64 // the server's system identifier from here on
	Timeline int64
	Reason   string // by a person; empty for timeline
}

// Kind returns KindRecovery.
func (*Recovery) Kind() Kind { return KindRecovery }

func (b *Recovery) lines(c *codec) {
	c.oneOf("event", &b.Event, EventLoss, EventFork, EventMoved, EventTimeline)
	c.count("after", &b.After)
	c.count("size", &b.Size)
	if c.err == nil && ((b.Event == EventLoss) != (b.Size > 0) || b.After > b.Size) {
		c.fail("event %s after %d, size %d", b.Event, b.After, b.Size)
	}
	c.str("origin", &b.Origin)
	c.uint64("system", &b.System)
	c.count("timeline", &b.Timeline)
	c.str("reason", &b.Reason)
}

// Revoke says that a key counts no longer: records after this one are not authenticated by it.
type Revoke struct {
	KeyID  string
	Reason string
}

// Kind returns KindRevoke.
func (*Revoke) Kind() Kind { return KindRevoke }

func (b *Revoke) lines(c *codec) {
	c.hexString("key_id", &b.KeyID, 2*keyIDBytes)
	c.str("reason", &b.Reason)
}
