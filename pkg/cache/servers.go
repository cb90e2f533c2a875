package cache

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// readServers fills in what the servers say about their memory, and says whether they answer.
func (c *Cache) readServers(ctx context.Context, s *Stats) bool {
	var mu sync.Mutex
	var used, most, evicted int64
	policies := map[string]bool{}
	readOnly, full := false, false
	err := c.eachMaster(ctx, func(ctx context.Context, node redis.Cmdable) error {
		text, err := node.Info(ctx).Result()
		if err != nil {
			return err
		}
		info := parseInfo(text)
		mu.Lock()
		defer mu.Unlock()
		used += number(info["used_memory"])
		most += number(info["maxmemory"])
		evicted += number(info["evicted_keys"])
		policies[info["maxmemory_policy"]] = true
		readOnly = readOnly || info["role"] == "slave"
		full = full || info["maxmemory_policy"] == "noeviction" && number(info["maxmemory"]) > 0 && number(info["used_memory"]) >= number(info["maxmemory"])
		return nil
	})
	if err != nil {
		return false
	}
	s.L2.UsedMemory, s.L2.MaxMemory, s.L2.EvictedKeys = &used, &most, &evicted
	policy := "mixed"
	for p := range policies {
		if len(policies) == 1 {
			policy = p
		}
	}
	s.L2.Policy = &policy
	switch {
	case readOnly:
		s.L2.Status = StatusReadOnly
		s.Warnings = append(s.Warnings, "Redis is a read-only replica: nothing new is kept there and no counter folded in; name the primary, or sentinels, in redis.url")
	case full:
		s.L2.Status = StatusFull
		s.Warnings = append(s.Warnings, "Redis is out of memory and its policy is noeviction: it keeps nothing new; raise maxmemory, or set maxmemory-policy to volatile-lru")
	default:
		s.L2.Status = StatusOK
	}
	if most > 0 && !full && policies["noeviction"] {
		s.Warnings = append(s.Warnings, "Redis has the policy noeviction, which is not for caches: when it is full it keeps nothing new; set maxmemory-policy to volatile-lru")
	}
	if most > 0 && c.o.SharedMax > most {
		s.Warnings = append(s.Warnings, "the cache may take more than Redis has: its values go by Redis's policy before their time")
	}
	return true
}

// parseInfo reads the lines of INFO.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info[k] = v
		}
	}
	return info
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64) // what is none is not known
	return n
}
