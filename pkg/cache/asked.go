package cache

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// What was asked, so that a cache can be warmed with it. In Redis, beside the counters:
//
//	PREFIX:{stats}:asked         set of scopes
//	PREFIX:{stats}:asked:SCOPE   sorted set of questions by how often they were asked
//
// A question is not kept for longer than a week after the last one of its scope, and Drop forgets it on request: it can name persons.
const (
	askedMost     = 1000 // questions of a scope, and of a process between two folds
	askedFor      = 7 * 24 * time.Hour
	longestAsked  = 4 << 10
	askedSetName  = "asked"
	askedListName = "asked:"
)

// question is what was asked of a scope.
type question struct{ scope, text string }

// Question is what was asked, and how often.
type Question struct {
	Text  string
	Times int64
}

// Asked counts a question whose answer is cached under scope. Without Redis nobody would be told, and it is not kept.
func (c *Cache) Asked(scope, text string) {
	if c == nil || c.o.Redis == nil || scope == "" || len(text) > longestAsked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := question{cleanScope(scope), text}
	if _, ok := c.asked[q]; ok || len(c.asked) < askedMost {
		c.asked[q]++
	}
}

// Frequent returns the most frequent questions of a scope, at most so many, the most frequent first.
func (c *Cache) Frequent(ctx context.Context, scope string, most int) ([]Question, error) {
	if c == nil || c.o.Redis == nil || most <= 0 {
		return nil, nil
	}
	list, err := c.o.Redis.ZRevRangeWithScores(ctx, c.askedKey(cleanScope(scope)), 0, int64(most)-1).Result()
	if err != nil {
		return nil, err
	}
	questions := make([]Question, 0, len(list))
	for _, z := range list {
		text, _ := z.Member.(string)
		questions = append(questions, Question{Text: text, Times: int64(z.Score)})
	}
	return questions, nil
}

func (c *Cache) askedKey(scope string) string { return c.statsKey(askedListName + scope) }

// takeAsked hands over what was counted since the last time.
func (c *Cache) takeAsked() map[question]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.asked
	c.asked = map[question]int64{}
	return taken
}

// giveBackAsked counts again what could not be sent.
func (c *Cache) giveBackAsked(taken map[question]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for q, n := range taken {
		c.asked[q] += n
	}
}

// sendAsked adds questions to those of all processes.
func (c *Cache) sendAsked(ctx context.Context, p redis.Pipeliner, asked map[question]int64) {
	scopes := map[string]bool{}
	for q, n := range asked {
		p.ZIncrBy(ctx, c.askedKey(q.scope), float64(n), q.text)
		scopes[q.scope] = true
	}
	for _, scope := range slices.Sorted(maps.Keys(scopes)) {
		p.ZRemRangeByRank(ctx, c.askedKey(scope), 0, -askedMost-1)
		p.PExpire(ctx, c.askedKey(scope), askedFor)
		p.SAdd(ctx, c.statsKey(askedSetName), scope)
		p.PExpire(ctx, c.statsKey(askedSetName), askedFor)
	}
}

// forgetAsked forgets the questions of the selected scopes, and returns how many there were.
func (c *Cache) forgetAsked(ctx context.Context, s Selection) (int64, error) {
	if !s.DryRun {
		c.takeAsked()
	}
	scopes, err := c.o.Redis.SMembers(ctx, c.statsKey(askedSetName)).Result()
	if err != nil {
		return 0, err
	}
	forgotten := int64(0)
	for _, scope := range scopes {
		if !within(scope, s.Scope) {
			continue
		}
		n, err := c.o.Redis.ZCard(ctx, c.askedKey(scope)).Result()
		if err == nil && !s.DryRun {
			err = c.o.Redis.Unlink(ctx, c.askedKey(scope)).Err()
		}
		if err != nil {
			return forgotten, err
		}
		forgotten += n
	}
	return forgotten, nil
}
