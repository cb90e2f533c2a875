package indexes

import "math"

// costSettings are the server's settings that the planner reckons with. The formulas of this file are those of PostgreSQL's
// costsize.c and selfuncs.c, as far as they concern what an index changes.
type costSettings struct {
	seqPage, randomPage, cpuTuple, cpuIndexTuple, cpuOperator float64
	cachePages                                                float64 // effective_cache_size
	workMem, block                                            float64 // bytes
}

// money is what the planner thinks something costs until its first and until its last row.
type money struct{ startup, total float64 }

func (m money) plus(o money) money { return money{m.startup + o.startup, m.total + o.total} }

// part is the cost of reading a share of the rows.
func (m money) part(share float64) float64 {
	return m.startup + (m.total-m.startup)*math.Max(0, math.Min(share, 1))
}

// fetched is how many pages so many random reads of rows touch, with a cache (Mackert and Lohman).
func (c costSettings) fetched(tuples, pages, totalPages float64) float64 {
	t := math.Max(pages, 1)
	b := math.Max(1, math.Ceil(c.cachePages*t/math.Max(totalPages, t)))
	var n float64
	if t <= b {
		n = math.Min(2*t*tuples/(2*t+tuples), t)
	} else if limit := 2 * t * b / (2*t - b); tuples <= limit {
		n = 2 * t * tuples / (2*t + tuples)
	} else {
		n = b + (tuples-limit)*(t-b)/t
	}
	return math.Ceil(n)
}

// indexPart is an index on one leaf.
type indexPart struct {
	pages, tuples float64
}

// probe is one way to use an index on one leaf.
type probe struct {
	leaf        *leaf
	part        indexPart
	bound       float64 // share of the entries between the bounds of the scan
	all         float64 // share of the rows that pass all conditions on the index
	conditions  float64 // on the index
	filters     float64 // that are left for the rows
	arrays      float64 // descents for = ANY
	loops       float64 // how often it is done
	correlation float64
	indexOnly   bool
	totalPages  float64 // of all tables of the query
}

// btree is the cost of reading an index's entries: btcostestimate.
func (c costSettings) btree(p probe) money {
	perScan := math.Max(1, math.Round(p.bound*p.part.tuples/p.arrays))
	pages := 1.0
	if p.part.pages > 1 && p.part.tuples > 1 {
		pages = math.Ceil(perScan * p.part.pages / p.part.tuples)
	}
	var m money
	if scans := p.arrays * p.loops; scans > 1 {
		m.total = c.fetched(pages*scans, p.part.pages, p.totalPages+p.part.pages) * c.randomPage / p.loops
	} else {
		m.total = pages * c.randomPage
	}
	m.total += perScan * p.arrays * (c.cpuIndexTuple + c.cpuOperator*p.conditions)
	descent := 0.0
	if p.part.tuples > 1 {
		descent = math.Ceil(math.Log2(p.part.tuples)) * c.cpuOperator
	}
	height := math.Max(0, math.Ceil(math.Log(math.Max(p.part.pages, 1))/math.Log(250)))
	descent += (height + 1) * 50 * c.cpuOperator
	m.startup += descent
	m.total += descent * p.arrays
	return m
}

// indexScan is the cost of an index scan, or an index-only one: cost_index.
func (c costSettings) indexScan(p probe) money {
	m := c.btree(p)
	rows := math.Max(1, math.Round(p.all*p.leaf.tuples))
	heap, total := p.leaf.pages, p.totalPages+p.part.pages
	unseen := func(pages float64) float64 {
		if p.indexOnly {
			return math.Ceil(pages * (1 - p.leaf.visible))
		}
		return pages
	}
	var most, least float64
	if p.loops > 1 {
		most = unseen(c.fetched(rows*p.loops, heap, total)) * c.randomPage / p.loops
		least = unseen(c.fetched(math.Ceil(p.all*heap)*p.loops, heap, total)) * c.randomPage / p.loops
	} else {
		most = unseen(c.fetched(rows, heap, total)) * c.randomPage
		if pages := unseen(math.Ceil(p.all * heap)); pages > 0 {
			least = c.randomPage + (pages-1)*c.seqPage
		}
	}
	m.total += most + p.correlation*p.correlation*(least-most) + rows*(c.cpuTuple+p.filters*c.cpuOperator)
	return m
}

// bitmapScan is the cost of reading rows in the order of their pages, after the index entries: cost_bitmap_heap_scan.
func (c costSettings) bitmapScan(p probe, index money) money {
	rows := math.Max(1, math.Round(p.all*p.leaf.tuples))
	t := math.Max(p.leaf.pages, 1)
	pages := 2 * t * rows / (2*t + rows)
	if p.loops > 1 {
		pages = c.fetched(rows*p.loops, t, p.totalPages+p.part.pages) / p.loops
	}
	if pages >= t {
		pages = t
	} else {
		pages = math.Ceil(pages)
	}
	page := c.randomPage
	if pages >= 2 {
		page -= (c.randomPage - c.seqPage) * math.Sqrt(pages/t)
	}
	startup := index.total + 0.1*c.cpuOperator*rows
	return money{startup, startup + pages*page + rows*(c.cpuTuple+(p.filters+p.conditions)*c.cpuOperator)}
}

// gin is the cost of looking some keys up in an inverted index: gincostestimate.
func (c costSettings) gin(p probe, keys float64) money {
	entryPages := math.Max(1, math.Ceil(p.part.pages/2))
	dataPages := math.Max(1, p.part.pages-entryPages)
	descents := math.Ceil(keys * math.Max(1, math.Round(math.Pow(entryPages, 0.15))))
	rows := math.Max(1, p.all*p.leaf.tuples)
	data := math.Max(math.Ceil(dataPages*math.Min(1, keys/math.Max(1, p.part.tuples))), math.Ceil(rows/(c.block/3)))
	startup := (descents+data)*c.randomPage + 50*c.cpuOperator*keys
	return money{startup, startup + rows*(c.cpuIndexTuple+p.conditions*c.cpuOperator)}
}

// pagesPerRange of a BRIN index that has no other setting.
const pagesPerRange = 128

// brin is the cost of a bitmap of page ranges, and the share of the pages in it: brincostestimate.
func (c costSettings) brin(p probe) (m money, share float64) {
	ranges := math.Max(1, math.Ceil(p.leaf.pages/pagesPerRange))
	hit := ranges
	if r := math.Abs(p.correlation); r > 1e-10 {
		hit = math.Min(ranges, math.Ceil(ranges*p.bound)/r)
	}
	m.startup = c.randomPage
	m.total = m.startup + c.randomPage*math.Max(1, math.Ceil(ranges/300)) + 0.1*c.cpuOperator*hit*pagesPerRange
	return m, math.Max(0, math.Min(hit/ranges, 1))
}

// sort is the cost of a sort, in memory or on disk, of rows that were read: cost_sort. limit 0: all are wanted.
func (c costSettings) sort(rows, width, limit float64) money {
	n := math.Max(rows, 2)
	compare := 2 * c.cpuOperator
	bytes := n * (width + 24)
	var m money
	switch {
	case limit > 0 && limit < n && limit*(width+24) <= c.workMem:
		m.startup = compare * n * math.Log2(math.Min(n, 2*limit))
	case bytes > c.workMem:
		pages := math.Ceil(bytes / c.block)
		runs := math.Max(1, math.Ceil(math.Log(bytes/c.workMem)/math.Log(6)))
		m.startup = compare*n*math.Log2(n) + 2*pages*runs*(0.75*c.seqPage+0.25*c.randomPage)
	default:
		m.startup = compare * n * math.Log2(n)
	}
	m.total = m.startup + c.cpuOperator*n
	return m
}

// hash is what a hash join costs beside its inputs: cost_hashjoin for keys that are spread evenly.
func (c costSettings) hash(outer, outerWidth, inner, innerWidth, rows, clauses float64) money {
	m := money{startup: (c.cpuOperator*clauses + c.cpuTuple) * inner}
	m.total = m.startup + c.cpuOperator*clauses*outer*1.5 + c.cpuTuple*rows
	if inner*(innerWidth+32) > 2*c.workMem {
		in, out := math.Ceil(inner*(innerWidth+24)/c.block), math.Ceil(outer*(outerWidth+24)/c.block)
		m.startup += c.seqPage * in
		m.total += c.seqPage * (2*in + 2*out)
	}
	return m
}
