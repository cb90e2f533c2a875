package integrity

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
)

// External is a checkpoint that was kept outside the database.
type External struct {
	Source   string // where it came from, for messages
	Note     string // the signed note
	LastSeen bool   // the verifier's own, from its last run
}

// anchor is a parsed External.
type anchor struct {
	External
	size int64
	root tlog.Hash
	met  bool // the log has reached its size
	lost bool // of records that are lost, and that was accepted
	bad  bool // not signed by a key of the log

	differs bool // the log has its size, and another root
}

// logWalk reads the log once from its start, in as many snapshots as extend is called, and checks each record, the tree and the
// checkpoints. It keeps only what logState keeps.
type logWalk struct {
	keys    *Keys      // nil: MACs are not checked
	public  *PublicKey // nil: signatures are not checked
	found   *collector
	trust   trust
	server  identity // the server that is being read; zero: not known
	state   *logState
	next    int64 // sequence number of the next record to read
	edge    edge
	lost    bool // a record and its tree hash are missing: the tree cannot be followed further, single records can
	anchors []anchor

	checkpoint Checkpoint     // the newest one whose root was right
	wrongRoots int64          // checkpoints whose root is not the tree's
	newest     int64          // size of the newest checkpoint
	wrongKey   bool           // the log was made with another key: it cannot be authenticated
	inTree     map[int64]bool // records whose MAC is wrong, but whose text is the one in the tree
	damaged    map[int64]bool // records whose text cannot be trusted
	endBad     bool           // the tables around the log do not end with it
}

func newLogWalk(keys *Keys, public *PublicKey, found *collector) *logWalk {
	return &logWalk{
		keys: keys, public: public, found: found, trust: newTrust(keys, public), state: newLogState(), inTree: map[int64]bool{}, damaged: map[int64]bool{},
	}
}

// addAnchor takes an external checkpoint; it must come before the records that it covers.
func (w *logWalk) addAnchor(x External) error {
	// What a copy does to a text file is not tampering: line ends, a byte order mark, empty lines around it.
	x.Note = strings.TrimSpace(strings.ReplaceAll(strings.TrimPrefix(x.Note, "\ufeff"), "\r\n", "\n")) + "\n"
	cp, root, err := ParseCheckpoint(x.Note)
	if err != nil {
		return fault.New(fault.Unavailable, "give a file that holds one signed checkpoint", "read checkpoint %s: %w", x.Source, err)
	}
	var unverified *note.UnverifiedNoteError
	if _, err := note.Open([]byte(x.Note), note.VerifierList()); !errors.As(err, &unverified) {
		return fault.New(fault.Unavailable, "give a file that holds one signed checkpoint", "read checkpoint %s: %w", x.Source, err)
	}
	w.anchors = append(w.anchors, anchor{External: x, size: cp.Size, root: root})
	return nil
}

const logChunk = 2000

// extend reads the records that the transaction's snapshot has beyond what was read before, and returns how many it has.
func (w *logWalk) extend(ctx context.Context, tx pgx.Tx) (int64, error) {
	end, err := readLogSize(ctx, tx)
	if err != nil {
		return 0, err
	}
	if w.next == 0 && end.records > 0 {
		if err := w.identify(ctx, tx, end); err != nil {
			return 0, err
		}
	}
	if end.records < w.next {
		return end.records, nil // an older snapshot than the last one
	}
	for w.next < end.records {
		if err := w.chunk(ctx, tx, min(w.next+logChunk, end.records)); err != nil {
			return 0, err
		}
	}
	w.checkEnd(end)
	return end.records, nil
}

// identify finds out whether the log was made with the keys at hand at all: the wrong key proves nothing about the log.
func (w *logWalk) identify(ctx context.Context, tx pgx.Tx, end logSize) error {
	if w.public == nil {
		return nil
	}
	if w.trust.newest(end.note) {
		return nil
	}
	records, err := readRecords(ctx, tx, 0, 2)
	if err != nil {
		return err
	}
	first, second := records[0], records[1]
	switch {
	case w.keys != nil && first != nil && w.keys.checkRecord(first):
		if origin := originOf(first.text); w.keys.find(first.keyID).origin != origin {
			return fault.New(fault.Config, "leave integrity.origin out: the key file knows it", "the log's origin is %q, integrity.origin says %q", origin, w.keys.origin)
		}
		return nil
	case w.keys != nil && (first == nil || w.keys.find(first.keyID) != nil):
		return nil
	case w.keys != nil:
		w.found.add(newFinding(WrongKey, "the log was written with key %s; the configured key is %s: nothing can be authenticated", first.keyID, w.keys.id))
	default:
		var r Record
		if second != nil {
			r, _ = Parse([]byte(second.text))
		}
		k, ok := r.Body.(*Key)
		if !ok || k.Public == w.public.Encode() && end.origin() == w.public.Origin() {
			return nil
		}
		w.found.add(newFinding(WrongKey, "the log's checkpoints are signed by key %s of %q, not by the public key at hand", k.KeyID, end.origin()))
	}
	w.wrongKey, w.keys, w.public = true, nil, nil
	return nil
}

// originOf returns the origin in a genesis record, "" for anything else.
func originOf(record string) string {
	r, err := Parse([]byte(record))
	if g, ok := r.Body.(*Genesis); ok && err == nil {
		return g.Origin
	}
	return ""
}

// chunk walks the records up to a size.
func (w *logWalk) chunk(ctx context.Context, tx pgx.Tx, upTo int64) error {
	from := w.next
	records, err := readRecords(ctx, tx, from, upTo)
	if err != nil {
		return err
	}
	hashes, err := readHashes(ctx, tx, tlog.StoredHashIndex(0, from), tlog.StoredHashIndex(0, upTo))
	if err != nil {
		return err
	}
	checkpoints, err := readCheckpoints(ctx, tx, from, upTo)
	if err != nil {
		return err
	}
	for ; w.next < upTo; w.next++ {
		if err := w.step(ctx, tx, w.next, records[w.next], hashes); err != nil {
			return err
		}
		if w.lost {
			continue
		}
		if cp, ok := checkpoints[w.edge.size]; ok {
			w.checkCheckpoint(cp)
		}
		w.checkAnchors()
	}
	return nil
}

// step takes the record of one sequence number, which may be missing.
func (w *logWalk) step(ctx context.Context, tx pgx.Tx, seq int64, rec *storedRecord, hashes map[int64]tlog.Hash) error {
	index := tlog.StoredHashIndex(0, seq)
	stored, haveStored := hashes[index]
	leaf, good, err := w.judge(seq, rec, stored, haveStored)
	if err != nil {
		return err
	}
	if !good {
		w.damaged[seq] = true
		if err := w.salvage(ctx, tx, seq); err != nil {
			return err
		}
	}
	if w.lost {
		return nil
	}
	want, err := w.edge.add(leaf)
	if err != nil {
		return fmt.Errorf("follow the log's tree: %w", err)
	}
	for i, h := range want {
		got, ok := hashes[index+int64(i)]
		if i == 0 && !good {
			continue // reported with the record
		}
		if !ok || got != h {
			w.found.add(newFinding(LogRootMismatch, "tree hash %d, stored with record %d, is %s", index+int64(i), seq, missingOr(!ok, "wrong")).of(seq))
		}
	}
	return nil
}

func missingOr(missing bool, other string) string {
	if missing {
		return "missing"
	}
	return other
}

// judge checks one record and returns the leaf hash to go on with: its own, or the stored one where the record cannot be trusted.
func (w *logWalk) judge(seq int64, rec *storedRecord, stored tlog.Hash, haveStored bool) (tlog.Hash, bool, error) {
	if rec == nil {
		w.found.add(newFinding(LogGap, "record %d of the log is missing", seq).of(seq))
		w.lost = w.lost || !haveStored
		return stored, false, nil
	}
	leaf := tlog.RecordHash([]byte(rec.text))
	inTree := haveStored && leaf == stored
	if bad := w.authenticate(seq, rec, inTree, haveStored); bad {
		if haveStored {
			leaf = stored
		}
		if !inTree {
			return leaf, false, nil
		}
		w.inTree[seq] = true
	}
	parsed, err := Parse([]byte(rec.text))
	if err != nil || parsed.Seq != seq {
		if w.keys != nil && w.keys.checkRecord(rec) && err != nil {
			return leaf, false, fault.New(fault.Unavailable, "use a newer auditdb", "record %d of the log cannot be read by this version: %w", seq, err)
		}
		w.found.add(newFinding(LogRootMismatch, "record %d of the log is not a record of that number", seq).of(seq))
		return leaf, false, nil
	}
	w.state.apply(parsed)
	w.trust.learn(parsed, w.keys != nil && w.keys.checkRecord(rec))
	return leaf, true, nil
}

// authenticate reports a record whose MAC or tree hash is not its own.
func (w *logWalk) authenticate(seq int64, rec *storedRecord, inTree, haveStored bool) (bad bool) {
	if w.keys == nil || w.unknownSecret(rec) {
		if !inTree && haveStored {
			w.found.add(newFinding(LogRootMismatch, "record %d of the log was changed: it is not what the tree holds", seq).of(seq))
			return true
		}
		return false
	}
	if w.keys.checkRecord(rec) {
		return w.outdated(seq, rec)
	}
	for _, k := range w.keys.all() {
		if k.CheckMAC([]byte(rec.text), rec.mac) {
			w.found.add(newFinding(KeyUnknown, "record %d of the log names key %s, but key %s made it", seq, rec.keyID, k.id).of(seq))
			return false
		}
	}
	switch {
	case w.keys.find(rec.keyID) == nil:
		w.found.add(newFinding(KeyUnknown, "record %d of the log is authenticated by key %s, which the log does not know", seq, rec.keyID).of(seq))
	case inTree:
		w.found.add(newFinding(MACInvalid, "the MAC of record %d of the log is not the record's", seq).of(seq))
	default:
		w.found.add(newFinding(MACInvalid, "record %d of the log was changed: its MAC does not fit", seq).of(seq))
	}
	return true
}

// unknownSecret notes a record by a key of the log that is not at hand: only its place in the signed tree speaks for it.
func (w *logWalk) unknownSecret(rec *storedRecord) bool {
	if _, ok := w.state.control.keys[rec.keyID]; !ok || w.keys.find(rec.keyID) != nil {
		return false
	}
	w.trust.withoutMAC[rec.keyID]++
	return true
}

// outdated reports a record by a key that counts no longer, or not yet. Nothing can be said before the first key record.
func (w *logWalk) outdated(seq int64, rec *storedRecord) bool {
	c := &w.state.control
	if _, ok := c.keys[rec.keyID]; ok || len(c.keys)+len(c.retired) == 0 {
		return false
	}
	if at, ok := c.retired[rec.keyID]; ok {
		w.found.add(newFinding(KeyUnknown, "record %d of the log is authenticated by key %s, which record %d ended", seq, rec.keyID, at).of(seq))
		return true
	}
	w.found.add(newFinding(KeyUnknown, "record %d of the log is authenticated by key %s, which no record before it introduces", seq, rec.keyID).of(seq))
	return true
}

// salvage looks a damaged record's leaf set up in the leaf store, so that its rows are compared with that at least.
func (w *logWalk) salvage(ctx context.Context, tx pgx.Tx, seq int64) error {
	table, rng, ok, err := readLeafPlace(ctx, tx, seq)
	if err != nil || !ok {
		return err
	}
	w.state.adopt(seq, table, rng)
	return nil
}

func (w *logWalk) checkCheckpoint(cp storedCheckpoint) {
	w.newest = cp.size
	root, err := w.edge.root()
	signed, noteRoot, parseErr := ParseCheckpoint(cp.note)
	switch {
	case err != nil || root != cp.root:
		if w.wrongRoots == 0 {
			w.found.add(newFinding(LogRootMismatch, "the log's tree at %d records is not what its checkpoint says", cp.size))
		}
		w.wrongRoots++
		return
	case parseErr != nil || noteRoot != cp.root || signed.Size != cp.size:
		w.found.add(newFinding(CheckpointSignature, "the signed note of checkpoint %d says something else than the checkpoint", cp.size))
		return
	}
	if w.public != nil {
		if err := w.trust.verify(&w.state.control, cp.note); err != nil {
			w.found.add(newFinding(CheckpointSignature, "checkpoint %d: %v", cp.size, err))
			return
		}
	}
	w.checkpoint = signed
}

func (w *logWalk) checkAnchors() {
	for i := range w.anchors {
		a := &w.anchors[i]
		if a.met || a.size != w.edge.size {
			continue
		}
		a.met = true
		if root, err := w.edge.root(); err == nil && root == a.root {
			continue
		}
		a.differs = true
	}
}

// signatures judges who signed the external checkpoints, once the log has told of all of its keys.
func (w *logWalk) signatures() {
	if w.public == nil {
		return
	}
	for i := range w.anchors {
		a := &w.anchors[i]
		if err := w.trust.verifyAny(a.Note); err != nil && !a.bad {
			a.bad = true
			w.found.add(newFinding(AnchorInvalid, "checkpoint %s is not signed by the log's key: %v", a.Source, err))
		}
	}
}

// checkEnd compares what the tables around the log hold beyond its last record. A finding is made once.
func (w *logWalk) checkEnd(end logSize) {
	if w.endBad {
		return
	}
	before := w.found.errors()
	defer func() { w.endBad = w.found.errors() > before }()
	switch {
	case end.checkpoint > end.records:
		w.found.add(newFinding(LogTruncated, "the log has %d records, its newest checkpoint covers %d", end.records, end.checkpoint))
	case end.hashes > tlog.StoredHashCount(end.records):
		w.found.add(newFinding(LogTruncated, "the log has %d records, but tree hashes for more", end.records))
	case end.records > 0 && w.newest < end.records && !w.lost:
		w.found.add(newFinding(LogRootMismatch, "the log has %d records, its newest checkpoint covers only %d", end.records, w.newest))
	}
}

// tellingAnchors gives for each source the checkpoint that tells most: one that is wrong, else the largest.
func (w *logWalk) tellingAnchors(lastSeen bool) []anchor {
	var out []anchor
	at := map[string]int{}
	for _, a := range w.anchors {
		if a.LastSeen != lastSeen {
			continue
		}
		i, ok := at[a.Source]
		switch {
		case !ok:
			at[a.Source] = len(out)
			out = append(out, a)
		case a.weight(w.next) > out[i].weight(w.next) || a.weight(w.next) == out[i].weight(w.next) && a.size > out[i].size:
			out[i] = a
		}
	}
	return out
}

// weight says how much a checkpoint tells about a log of a size.
func (a anchor) weight(size int64) int {
	switch {
	case a.bad || a.differs && !a.lost || a.size > size && !a.lost:
		return 2
	case a.lost:
		return 0
	}
	return 1
}

// finish reports what can be told only at the end. records is the size of the log in the last snapshot.
func (w *logWalk) finish(records int64) {
	if records < w.next {
		w.found.add(newFinding(LogTruncated, "the log had %d records a moment ago and has %d now", w.next, records))
	}
	w.signatures()
	for i := range w.anchors {
		a := &w.anchors[i]
		short := !a.met && a.size > w.next
		if a.bad || !short && !a.differs {
			continue
		}
		switch a.lost = w.state.control.lost(a.size); {
		case a.lost:
		case short:
			w.found.add(w.explain(newFinding(LogTruncated, "checkpoint %s covers %d records, the log has %d", a.Source, a.size, w.next), a.size))
		default:
			w.found.add(w.explain(newFinding(LogForked, "the log's first %d records are not those of checkpoint %s", a.size, a.Source), a.size))
		}
	}
	if w.wrongRoots > 1 {
		w.found.add(newFinding(LogRootMismatch, "%d checkpoints of the log do not fit its tree", w.wrongRoots))
	}
}

// explain adds to a finding about lost records what may be behind it.
func (w *logWalk) explain(f Finding, size int64) Finding {
	c := &w.state.control
	switch {
	case w.server.system != 0 && c.system != w.server.system:
		f.Detail += "; the log belongs to server " + strconv.FormatUint(c.system, 10) + ", and this is server " + strconv.FormatUint(w.server.system, 10) + ": a dump of an earlier state was restored, or this is a copy"
		return f
	case w.server.timeline > c.timeline:
		f.Detail += fmt.Sprintf("; the server has gone from timeline %d to %d since the last record", c.timeline, w.server.timeline)
	case c.began > 0 && c.began < size:
		f.Detail += fmt.Sprintf("; the server has been on timeline %d since record %d", c.timeline, c.began)
	default:
		return f
	}
	f.Detail += ": a failover or a point-in-time recovery has lost commits"
	f.Hint = fmt.Sprintf("when that is what happened: auditdb integrity accept-loss --size %d --reason TEXT", size)
	return f
}
