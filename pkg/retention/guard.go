package retention

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const archiveWantedSQL = `SELECT coalesce(bool_or(archive_required), false) FROM auditdb.policy WHERE table_id = $1 AND data_classification IS NULL AND organization_id IS NULL AND retention_policy IS NULL`

// Guard looks at what partition prune would drop as retention run does: rules as they were logged, every row as its leaf, and, where the policy
// wants one, the archive as the store has it and as many rows in it. It is for one prune of one table.
type Guard struct {
	Runner func() (*Runner, error) // its database, keys, clock and store; asked once there is something to look at
	Table  partitions.Table
	Policy bool // the policy's word about archives counts
	Log    *slog.Logger

	integrity bool
	archived  bool               // the policy wants an archive
	versions  map[uint32]version // of the rows that were verified, by oid
	size      int64              // of the log that they were compared with
}

// Vet is partitions.PruneOptions.Vet.
func (g *Guard) Vet(ctx context.Context, goes []partitions.Partition) (map[uint32]partitions.Reason, error) {
	r, err := g.Runner()
	if err != nil {
		return nil, err
	}
	if err := r.audit(ctx); err != nil {
		return nil, err
	}
	if g.integrity, err = r.integrityOn(ctx, g.Table); err != nil || !g.integrity {
		return nil, err
	}
	if g.Policy {
		if err := r.DB.Pool().QueryRow(ctx, archiveWantedSQL, *g.Table.ManagedID).Scan(&g.archived); err != nil {
			return nil, fmt.Errorf("read the retention policies of %s: %w", g.Table, err)
		}
	}
	if g.versions, err = versionsOf(ctx, r.DB.Pool(), goes); err != nil {
		return nil, err
	}
	report, size, err := r.verifyParts(ctx, g.Table, goes)
	if err != nil {
		return nil, err
	}
	g.size = size
	return g.judge(ctx, r, report, goes), nil
}

// judge says which partitions have to stay, and tells why.
func (g *Guard) judge(ctx context.Context, r *Runner, report *integrity.Report, goes []partitions.Partition) map[uint32]partitions.Reason {
	stays := map[uint32]partitions.Reason{}
	keep := func(p partitions.Partition, reason partitions.Reason, why string) {
		stays[p.OID] = reason
		g.Log.LogAttrs(ctx, slog.LevelWarn, "partition kept: "+why, slog.String("partition", p.String()))
	}
	for _, p := range goes {
		i := checkedAt(report, g.Table, p)
		if i < 0 || !report.Checked[i].OK {
			keep(p, partitions.KeptFinding, firstFinding(report, p))
			continue
		}
		if !g.archived {
			continue
		}
		if err := r.CheckArchive(ctx, g.Table, p); err != nil {
			keep(p, partitions.KeptNotArchived, "its archive cannot be relied on: "+err.Error())
		}
	}
	return stays
}

// Recheck is partitions.PruneOptions.Recheck.
func (g *Guard) Recheck(ctx context.Context, tx pgx.Tx, p partitions.Partition, rows int64) error {
	if !g.integrity {
		return nil
	}
	v := g.versions[p.OID]
	return recheck(ctx, tx, g.Table, p, expectation{rows: v.rows, xmins: v.xmins, archived: g.archived, logSize: g.size}, rows)
}

// checkedAt finds what became of a partition.
func checkedAt(report *integrity.Report, t partitions.Table, p partitions.Partition) int {
	from, to := recorded(p.Bounds)
	for i, c := range report.Checked {
		if c.TableID == *t.ManagedID && c.From == from && c.To == to {
			return i
		}
	}
	return -1
}
