package indexes

// Action is what a recommendation asks to do.
type Action string

// The actions.
const (
	ActionCreate  Action = "create"
	ActionDrop    Action = "drop"
	ActionReindex Action = "reindex"
	ActionAnalyze Action = "analyze" // the table, whose statistics are missing
)

// Recommendation is one change of the indexes, with what speaks for it. What is not known is nil.
type Recommendation struct {
	Action       Action     `json:"action"`
	DDL          string     `json:"ddl"`        // one statement at the parent's level; see Statement
	Definition   Definition `json:"definition"` // of the index to make, drop or rebuild; only schema and table where they are to be analyzed
	Table        string     `json:"table"`      // for people
	Index        string     `json:"index"`      // for people; "": there is none
	Reason       string     `json:"reason"`
	Benefit      *float64   `json:"benefit"`       // planner cost saved over all calls of the queries
	CostBefore   *float64   `json:"cost_before"`   // of the queries it helps, over all their calls
	CostAfter    *float64   `json:"cost_after"`    // the same, with the index
	SizeBytes    *int64     `json:"size_bytes"`    // over all partitions
	WritePenalty *float64   `json:"write_penalty"` // bytes of WAL for each inserted row; negative: saved
	Evidence     string     `json:"evidence"`      // what it rests on, e.g. hypopg, cost model, catalog
	Confidence   string     `json:"confidence"`    // high, medium or low
	Queries      []Helped   `json:"queries"`
}

// Helped is a query that a recommendation makes cheaper.
type Helped struct {
	Query      string  `json:"query"`
	Calls      float64 `json:"calls"`
	CostBefore float64 `json:"cost_before"` // of one call
	CostAfter  float64 `json:"cost_after"`
}

// Statement renders what the recommendation asks for, from its definition alone, as one statement that psql can run.
func (r Recommendation) Statement() string {
	switch r.Action {
	case ActionCreate:
		return r.Definition.DDL()
	case ActionDrop:
		return "DROP INDEX " + r.Definition.Ident()
	case ActionReindex:
		return "REINDEX INDEX CONCURRENTLY " + r.Definition.Ident()
	case ActionAnalyze:
		return "ANALYZE " + r.Definition.TableIdent()
	}
	return ""
}

// Recommend makes a recommendation whose names and DDL come from its definition.
func Recommend(action Action, d Definition, reason, evidence string) Recommendation {
	r := Recommendation{Action: action, Definition: d, Table: d.TableName(), Reason: reason, Evidence: evidence, Confidence: "high", Queries: []Helped{}}
	if action != ActionAnalyze {
		r.Index = d.DisplayName()
	}
	r.DDL = r.Statement()
	return r
}

// What hygiene recommendations rest on.
const (
	evidenceCatalog  = "catalog"          // definitions and states
	evidenceUsage    = "usage statistics" // scans counted on the primary and on all replicas that are configured
	evidenceEstimate = "estimate"         // size against rows and widths of the planner's statistics
	evidenceMeasured = "pgstattuple"
)
