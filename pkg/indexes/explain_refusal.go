package indexes

import (
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusals are reasons for which the server does not plan a statement, by SQLSTATE.
var refusals = map[string]string{
	"22P02": "a value is none of its type",
	"22007": "a value is none of its type",
	"22003": "a number is out of range",
	"42601": "its syntax is wrong",
	"42P18": "the type of a parameter is not known",
	"57014": "planning took too long",
	"55P03": "a table is locked",
	"0A000": "the server cannot do that",
	"25006": "a function that it calls would change data when it is planned",
}

// named are errors whose messages are made of names and types alone.
var named = []string{"42P01", "42703", "42883", "42501", "3F000", "42702", "42804", "42P02"}

// refusal is why a statement cannot be planned. The server's own message may quote values, of the statement or of the statistics that stand for its
// parameters, so that it is only told where it has none.
func refusal(pg *pgconn.PgError) string {
	reason, known := refusals[pg.Code]
	switch {
	case slices.Contains(named, pg.Code):
		reason = shapeOf(pg.Message, shownQuery)
	case known:
	case pg.Code[:min(2, len(pg.Code))] == "22":
		reason = "a value is not accepted"
	default:
		reason = "the server refuses it"
	}
	return reason + " (SQLSTATE " + pg.Code + ")"
}
