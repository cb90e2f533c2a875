package ingest

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const (
	// DefaultBatchRows is how many records go into a transaction when nothing else is said.
	DefaultBatchRows = 10000
	maxBatchBytes    = 4 << 20 // of records; a batch ends after the record that passes it
	allBatchBytes    = 5 << 20 // shared by the jobs, so that more of them do not need more memory
	minBatchBytes    = 1 << 20
	graceTime        = 10 * time.Second // for batches on their way when the run is told to stop
	blocksAtOnce     = 4
)

// Creator makes partitions: a *partitions.Creator.
type Creator interface {
	Ensure(ctx context.Context, t partitions.Table, ranges []partitions.Bounds) (*partitions.Catalog, []partitions.Partition, error)
	// WhyNot says why the last Ensure made no partition for a key value; "" where there is no particular reason.
	WhyNot(at time.Time) string
}

// Options say what a run does. DB, Table, Now and Mapping are required.
type Options struct {
	DB       *postgres.DB
	Table    partitions.Table
	Log      *integrity.Log // nil only where the table's integrity is off
	Now      func() time.Time
	Mapping  Mapping
	Format   string // FormatNDJSON …; "": by content
	Rejects  *RejectFile
	MaxBad   int64         // rejected records of this run that are put up with; negative: any number
	MaxAhead time.Duration // timestamps further in the future are rejected; 0: any

	BatchRows int // records a transaction; 0: DefaultBatchRows
	Jobs      int // connections that copy; 0: 1
	ReadBack  bool
	Wait      time.Duration // for locks, and for a server that is away
	Follow    *Follow       // files to follow besides the sources; nil: none
	DryRun    bool          // parse and map only

	// Creator makes partitions for rows that none takes; without one such rows are rejected. In a dry run it only says what it would make.
	Creator Creator

	OnReject   func(Reject)                 // told of each record not taken, after its batch was committed; may be nil
	OnProgress func(records, bytes int)     // told of each batch, and how much of the sources, as they are stored, is done with it; may be nil
	OnEvent    func(columns map[string]any) // dry run: told of the first events; may be nil
}

// run is a run in progress.
type run struct {
	opts       Options
	db         *postgres.DB
	fixed      *fixed
	mappingSum []byte
	tableID    int16
	table      *integrity.Table
	ident      string        // the table's quoted name
	lockWait   time.Duration // for the integrity log's lock
	seed       maphash.Seed

	chunks  chan *chunk // free ones
	batches chan *batch // free ones
	read    chan *chunk
	ready   chan *batch
	copying chan struct{} // one for each job that may be in COPY
	turn    *turn         // of the last batch that was prepared, where there is one job

	catalog   atomic.Pointer[catalog]
	loading   sync.Mutex
	creating  sync.Mutex
	telling   sync.Mutex  // calls to Options.On…
	lookFirst atomic.Bool // the last batch had events that were there already
	number    atomic.Int64
	committed atomic.Bool // something

	taking sync.Mutex // blocks, also while more of them are fetched
	blocks []int64

	mu     sync.Mutex
	bad    int64 // rejected so far, reserved before commit
	report Report
	shown  int
	errs   []error // of single sources

	followed []*source
}

// Run ingests sources. The report is right also when an error comes with it: what it counts is committed.
func Run(ctx context.Context, o Options, sources []Source) (Report, error) {
	r, err := newRun(ctx, o)
	if err != nil {
		return Report{Sources: []SourceReport{}}, err
	}
	start := o.Now()
	all := make([]*source, len(sources))
	for i, s := range sources {
		all[i] = &source{Source: s, lockName: fmt.Sprintf("ingest:%d:%s", r.tableID, s.Name), report: SourceReport{Name: s.Name}}
	}
	err = r.work(ctx, all)
	rep := r.finalReport(append(all, r.followed...))
	rep.ElapsedSeconds = o.Now().Sub(start).Seconds()
	if rep.ElapsedSeconds > 0 {
		rep.RowsPerSecond = float64(rep.Inserted) / rep.ElapsedSeconds
	}
	return rep, err
}

func newRun(ctx context.Context, o Options) (*run, error) {
	if o.BatchRows <= 0 {
		o.BatchRows = DefaultBatchRows
	}
	o.BatchRows = min(o.BatchRows, audit.MaxSet)
	o.Jobs = max(o.Jobs, 1)
	if o.Table.ManagedID == nil {
		return nil, fault.New(fault.Usage, "ingest writes to managed tables: auditdb partition list shows them", "table %s is not managed by auditdb", o.Table)
	}
	tableID := *o.Table.ManagedID
	settings, err := loadSettings(ctx, o.DB.Pool(), tableID)
	if err != nil {
		return nil, err
	}
	switch {
	case o.Follow != nil && o.DryRun:
		return nil, fault.New(fault.Usage, "", "a dry run follows no files: leave --follow out")
	case settings.encoding != "UTF8":
		return nil, fault.New(fault.Usage, "auditdb needs a database with encoding UTF8", "the database's encoding is %s", settings.encoding)
	case o.Format == FormatCSV && !o.Mapping.readsCSV():
		return nil, fault.New(fault.Usage, "leave --format out, or use --mapping native", "mapping %s does not read CSV", o.Mapping.Name)
	case o.Format != "" && o.Format != FormatCSV && o.Mapping.Name == MappingPgAudit:
		return nil, fault.New(fault.Usage, "set log_destination = csvlog, and leave --format out", "mapping pgaudit reads PostgreSQL's csvlog, not %s", o.Format)
	case !settings.blockIDs:
		return nil, fault.New(fault.Usage, "insert its rows with SQL and seal them: auditdb integrity seal", "table %s has no room for block ids (its id is an integer): it cannot be ingested into", o.Table)
	case settings.integrity && o.Log == nil:
		key, err := partitions.LogKey(ctx, o.DB.Pool())
		if err != nil {
			return nil, err
		}
		return nil, fault.New(fault.Config, integrity.KeyHint(key), "ingest needs the integrity key: %s has integrity on", o.Table)
	}
	if err := checkColumns(ctx, o.DB.Pool(), o.Table.OID); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Table.String(), err)
	}
	if !settings.integrity {
		o.Log = nil
	}
	lockWait := max(o.Wait, time.Duration(o.Jobs)*time.Second) // the jobs queue for it as well
	if o.Log != nil {
		o.Log = o.Log.Waiting(lockWait)
	}
	held := 0
	if o.Mapping.Name == MappingPgAudit {
		held = 1 // by the reader, see reading.pass
	}
	r := &run{
		lockWait: lockWait, opts: o, db: o.DB, mappingSum: o.Mapping.digest(), tableID: tableID, ident: o.Table.Ident(), seed: maphash.MakeSeed(),
		table:  &integrity.Table{ID: tableID, OID: o.Table.OID, Schema: o.Table.Schema, Name: o.Table.Name, KeyColumn: colTimestamp.name(), Format: audit.AuditLog()},
		chunks: make(chan *chunk, 2*o.Jobs+2+held), batches: make(chan *batch, 2*o.Jobs+1), read: make(chan *chunk), ready: make(chan *batch),
		copying: make(chan struct{}, o.Jobs),
	}
	if o.Log != nil {
		if err := postgres.Retry(ctx, r.retry(), func(ctx context.Context) error { return o.Log.Check(ctx, o.DB) }); err != nil {
			return nil, err
		}
	}
	r.fixed = &fixed{set: o.Mapping.set, latency: o.Mapping.latency, maxAhead: o.MaxAhead}
	if r.fixed.defaults, err = loadDefaults(ctx, o.DB.Pool(), o.Table.OID); err != nil {
		return nil, err
	}
	for range cap(r.chunks) {
		r.chunks <- &chunk{limit: max(minBatchBytes, min(maxBatchBytes, allBatchBytes/o.Jobs))}
	}
	for range cap(r.batches) {
		r.batches <- &batch{}
	}
	return r, r.reload(ctx)
}

// work runs one reader, and for each job a preparer and a committer. One more committer is there because no more than a job's share of them
// copies at a time: while one commits, which is mostly waiting, the next batch is on its way.
func (r *run) work(ctx context.Context, all []*source) error {
	grace, cancel := withGrace(ctx, graceTime)
	defer cancel()
	pipe := ctx
	if r.opts.Follow != nil {
		pipe = grace // what was read before the end goes in as well
	}
	g, gctx := errgroup.WithContext(pipe)
	g.Go(func() error {
		defer close(r.read)
		for _, s := range all {
			if err := r.readSource(gctx, s); err != nil {
				return err
			}
		}
		if r.opts.Follow == nil {
			return nil
		}
		return r.followAll(ctx, gctx, *r.opts.Follow)
	})
	var preparers sync.WaitGroup
	for range r.opts.Jobs {
		preparers.Add(1)
		g.Go(func() error {
			defer preparers.Done()
			return r.prepareAll(gctx)
		})
	}
	for range r.opts.Jobs + 1 {
		g.Go(func() error { return r.commitAll(gctx, grace) })
	}
	g.Go(func() error {
		preparers.Wait()
		close(r.ready)
		return nil
	})
	err := g.Wait()
	for _, s := range all {
		s.unlock()
	}
	if err != nil {
		return err
	}
	if err := r.sourceErrors(); err != nil || r.opts.Follow == nil {
		return err
	}
	return context.Cause(ctx)
}

// withGrace returns a context that outlives ctx by d, for work that is better finished than broken off.
func withGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	grace, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
		context.AfterFunc(grace, func() { t.Stop() })
	})
	return grace, func() {
		stop()
		cancel(context.Canceled)
	}
}

func (r *run) sourceErrors() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch len(r.errs) {
	case 0:
		return nil
	case 1:
		return r.errs[0]
	}
	return fmt.Errorf("%d sources could not be read to their end, the first: %w", len(r.errs), r.errs[0])
}

func (r *run) keep(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *run) finalReport(all []*source) Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.report
	rep.Sources, rep.Begun = make([]SourceReport, 0, len(all)), true
	for _, s := range all {
		s.mu.Lock()
		if !s.leftOut {
			rep.Sources = append(rep.Sources, s.report)
			rep.add(s.report.Counts)
		}
		s.mu.Unlock()
	}
	return rep
}

// chunk waits for a free chunk.
func (r *run) chunk(ctx context.Context) (*chunk, error) {
	select {
	case c := <-r.chunks:
		return c, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send hands a chunk to the preparers; the source is held until the chunk is committed.
func (r *run) send(ctx context.Context, c *chunk) error {
	c.src.hold()
	select {
	case r.read <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *run) prepareAll(ctx context.Context) error {
	p := &preparer{fixed: r.fixed, now: r.opts.Now, hasher: audit.NewHasher(audit.AuditLog()), seed: r.seed}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case c, ok := <-r.read:
			if !ok {
				return nil
			}
			if err := r.prepareOne(ctx, p, c); err != nil {
				return err
			}
		}
	}
}

func (r *run) prepareOne(ctx context.Context, p *preparer, c *chunk) error {
	var b *batch
	select {
	case b = <-r.batches:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := p.prepare(ctx, b, c); err != nil {
		return err
	}
	var err error
	if b.block, err = r.nextBlock(ctx); err != nil {
		return err
	}
	if err := r.seal(ctx, p.hasher, b); err != nil {
		return err
	}
	if b.before, b.turn = nil, nil; r.opts.Jobs == 1 {
		b.before, b.turn = r.turn, newTurn()
		r.turn = b.turn
	}
	select {
	case r.ready <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// nextBlock takes a block id; those that a run does not use are lost, which does no harm.
func (r *run) nextBlock(ctx context.Context) (int64, error) {
	r.taking.Lock()
	defer r.taking.Unlock()
	if len(r.blocks) == 0 {
		if r.opts.DryRun {
			return 1 << 24, nil
		}
		err := postgres.Retry(ctx, r.retry(), func(ctx context.Context) (err error) {
			r.blocks, err = takeBlocks(ctx, r.db.Pool(), blocksAtOnce)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	id := r.blocks[0]
	r.blocks = r.blocks[1:]
	return id, nil
}

// retry is the policy for a server that is away for a while.
func (r *run) retry() postgres.RetryPolicy {
	return postgres.RetryPolicy{
		Within: max(r.opts.Wait, time.Second),
		Also: func(err error) bool { // a server that committed for this run, and is a standby now, is in the middle of a failover
			return postgres.SQLState(err) == postgres.ReadOnlySQLTransaction || r.committed.Load() && postgres.IsStandby(err)
		},
	}
}

// commitAll commits batches until there are no more. A batch that was begun is finished also after ctx has ended.
func (r *run) commitAll(ctx, grace context.Context) error {
	c := &committer{run: r, hasher: audit.NewHasher(audit.AuditLog())}
	defer c.close(grace)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case b, ok := <-r.ready:
			if !ok {
				return nil
			}
			if err := c.commit(grace, b); err != nil {
				return err
			}
			ch := b.chunk
			r.release(grace, ch.src)
			r.chunks <- ch
			r.batches <- b
		}
	}
}

// reserve counts rejects before their batch commits and refuses those beyond the limit.
func (r *run) reserve(rejects []Reject) error {
	if len(rejects) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opts.MaxBad >= 0 && r.bad+int64(len(rejects)) > r.opts.MaxBad {
		return &limitError{limit: r.opts.MaxBad, first: rejects[max(0, r.opts.MaxBad-r.bad)]}
	}
	r.bad += int64(len(rejects))
	return nil
}

func (r *run) unreserve(n int) {
	r.mu.Lock()
	r.bad -= int64(n)
	r.mu.Unlock()
}

// done adds a committed batch to the report.
func (r *run) done(b *batch, n Counts, checkpoint *integrity.Checkpoint, rejects []Reject) {
	r.committed.Store(true)
	b.chunk.src.count(n)
	b.chunk.src.cover(int64(b.records))
	r.mu.Lock()
	r.report.Batches++
	r.report.Bytes += int64(len(b.chunk.raw))
	if checkpoint != nil && (r.report.Checkpoint == nil || checkpoint.Size > r.report.Checkpoint.Size) {
		r.report.Checkpoint = checkpoint
	}
	r.mu.Unlock()
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.opts.OnReject != nil {
		for _, j := range rejects {
			r.opts.OnReject(j)
		}
	}
	if r.opts.OnProgress != nil {
		r.opts.OnProgress(len(b.chunk.records), b.chunk.stored)
	}
}
