package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// ServerInfo is what identifies a server and how it is set up.
type ServerInfo struct {
	VersionNum             int    // server_version_num, e.g. 150014
	Version                string // e.g. "15.14"
	SystemID               uint64 // of the cluster, kept by its standbys; 0: not allowed to look
	Timeline               int    // 0: not allowed to look
	Database               string
	DatabaseOID            uint32
	InRecovery             bool   // a hot standby
	User                   string // session user
	Superuser              bool
	Now                    time.Time // the server's clock
	MaxLocksPerTransaction int
	MaxConnections         int
}

// Info asks the server who it is.
func (db *DB) Info(ctx context.Context) (ServerInfo, error) {
	var i ServerInfo
	var system, control bool
	err := db.pool.QueryRow(ctx, infoSQL).Scan(&i.VersionNum, &i.Version, &i.Database, &i.DatabaseOID, &i.InRecovery, &i.User, &i.Superuser, &i.Now,
		&i.MaxLocksPerTransaction, &i.MaxConnections, &system, &control)
	if err != nil {
		return ServerInfo{}, fmt.Errorf("ask the server who it is: %w", err)
	}
	if system {
		var id int64
		if err := db.pool.QueryRow(ctx, systemIDSQL).Scan(&id); err != nil {
			return ServerInfo{}, fmt.Errorf("read the system identifier: %w", err)
		}
		i.SystemID = uint64(id) //nolint:gosec // the server prints its unsigned number as a signed one
	}
	if i.Timeline, err = db.timeline(ctx, i.InRecovery, control); err != nil {
		return ServerInfo{}, err
	}
	return i, nil
}

func (db *DB) timeline(ctx context.Context, inRecovery, control bool) (int, error) {
	if !inRecovery {
		var hex string
		if err := db.pool.QueryRow(ctx, walTimelineSQL).Scan(&hex); err == nil {
			if n, err := strconv.ParseInt(hex, 16, 64); err == nil {
				return int(n), nil
			}
		}
	}
	if !control {
		return 0, nil
	}
	var n int
	if err := db.pool.QueryRow(ctx, timelineSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("read the timeline: %w", err)
	}
	return n, nil
}
