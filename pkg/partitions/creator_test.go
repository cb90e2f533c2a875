package partitions

import (
	"strings"
	"testing"

	"auditdb/internal/fault"
)

// One partition that cannot be made does not stop the others, whichever transaction it would have shared with them.
func TestCreateGoesOnWithoutOne(t *testing.T) {
	t.Parallel()
	refuse := `CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	  IF to_regclass('public.audit_log_2026_12') IS NOT NULL THEN RAISE 'not in December'; END IF; END $$;
	  CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()`
	b := migrated(t, refuse)
	tab := b.table("audit_log")
	made, _, err := b.tryCreate(tab, CreateOptions{Ahead: 3})
	if len(made) != 3 || err == nil || !strings.Contains(err.Error(), "not in December") {
		t.Errorf("%+v %v", made, err)
	}
	creator := &Creator{Worker: b.w}
	_, parts, err := creator.Ensure(t.Context(), tab, ranges(t, "2026-12-05/2026-12-06 2027-03-01/2027-03-02"))
	if err != nil || len(parts) != 1 || !strings.Contains(creator.WhyNot(at(t, "2026-12-24")), "not in December") {
		t.Errorf("for rows: %+v %v; %q", parts, err, creator.WhyNot(at(t, "2026-12-24")))
	}
	b.exec("DROP EVENT TRIGGER refuse")
	if _, parts, err = creator.Ensure(t.Context(), tab, ranges(t, "2026-12-05/2026-12-06")); err != nil || len(parts) != 1 || creator.WhyNot(at(t, "2026-12-24")) != "" {
		t.Errorf("later: %+v %v", parts, err)
	}
	b.ledger.fail = fault.New(fault.Config, "make one", "there is no key")
	_, _, err = creator.Ensure(t.Context(), tab, ranges(t, "2027-04-05/2027-04-06"))
	wantClass(t, err, fault.Config)
}
