package cmd

import (
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/config"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/integrity"
)

func newConfigCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show and check the configuration",
		Long: "Every setting comes from a flag, else the environment (AUDITDB_ and the key in capitals, _ for .), else the configuration file,\n" +
			"else its default. The file is --config, else $AUDITDB_CONFIG, else ./auditdb.yaml, else\n" +
			"$XDG_CONFIG_HOME/auditdb/auditdb.yaml, else /etc/auditdb/auditdb.yaml.",
		Example: "  auditdb config show\n  auditdb config validate --config /etc/auditdb/auditdb.yaml",
	}
	cmd.AddCommand(newConfigShowCmd(app), newConfigValidateCmd(app))
	return cmd
}

// configShowDoc is auditdb.config.show.v1.
type configShowDoc struct {
	File     *string          `json:"file"`
	Settings []config.Setting `json:"settings"`
}

func newConfigShowCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print every setting with its source, secrets masked",
		Example: "  auditdb config show\n  auditdb config show -o json | jq '.settings[] | select(.source != \"default\")'\n" +
			"  auditdb config show -o csv",
		RunE: func(*cobra.Command, []string) error { return showConfig(app) },
	}
	return listOutput(cmd)
}

func showConfig(app *App) error {
	c := app.Config
	doc := configShowDoc{File: orNull(c.File), Settings: c.Settings()}
	return app.EmitList("config show", doc, doc.Settings, func(t *output.Table) {
		if c.File == "" {
			t.Line("No configuration file.")
		} else {
			t.Line("Configuration file: %s", c.File)
		}
		t.Line("")
		t.Header("key", "value", "source", "set by")
		for _, s := range doc.Settings {
			t.Row(s.Key, orDash(s.Text), s.Source, orDash(s.Origin))
		}
	})
}

func orDash(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// configValidateDoc is auditdb.config.validate.v1.
type configValidateDoc struct {
	OK       bool     `json:"ok"`
	File     *string  `json:"file"`
	Warnings []string `json:"warnings"`
}

func newConfigValidateCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration: exit 2 where it cannot be used",
		Long: "The configuration file, the environment and the flags are read as every command reads them; nothing is connected to.\n" +
			"Addresses must be readable and key files usable. Environment variables that look like settings but are none are warnings.",
		Example: "  auditdb config validate\n  auditdb config validate --config auditdb.yaml -o json",
		RunE:    func(*cobra.Command, []string) error { return validateConfig(app) },
	}
}

func validateConfig(app *App) error {
	if err := unusable(app); err != nil {
		return err
	}
	doc := configValidateDoc{OK: true, File: orNull(app.Config.File), Warnings: strangers(os.Environ())}
	return app.Emit("config validate", doc, func(t *output.Table) {
		for _, w := range doc.Warnings {
			t.Line("warning: %s", w)
		}
		if app.Config.File == "" {
			t.Line("The configuration is valid; there is no configuration file.")
			return
		}
		t.Line("%s is valid.", app.Config.File)
	})
}

// unusable looks whether the settings can be used, as far as that can be told without connecting, and names each that cannot.
func unusable(app *App) error {
	c := app.Config
	var problems []string
	hint := ""
	check := func(key string, err error) {
		if err == nil {
			return
		}
		for _, s := range c.Settings() {
			if s.Key == key && s.Origin != "" {
				key = s.Origin + ": " + key
			}
		}
		problems = append(problems, key+": "+oneLine(err.Error()))
		if hint == "" {
			hint = fault.HintOf(err)
		}
	}
	if c.NamesDatabase() {
		check("database.url", postgres.CheckURL(c.Database.URL))
	}
	for _, replica := range c.Database.Replicas {
		check("database.replicas", postgres.CheckURL(replica))
	}
	if c.Redis.URL != "" {
		check("redis.url", redis.CheckURL(c.Redis.URL))
	} else if c.Redis.Required {
		check("redis.required", noRedisNamed())
	}
	if _, err := loadKeys(app); err != nil {
		check("integrity.key_file", err)
	}
	if c.Integrity.PublicKeyFile != "" {
		_, err := integrity.LoadPublic(c.Integrity.PublicKeyFile)
		check("integrity.public_key_file", err)
	}
	if len(problems) == 0 {
		return nil
	}
	return fault.New(fault.Config, hint, "config validate: %s", strings.Join(problems, "; "))
}

// strangers lists environment variables with our prefix that set nothing.
func strangers(environ []string) []string {
	known := config.EnvNames()
	warnings := []string{}
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, config.EnvPrefix) || slices.Contains(known, name) {
			continue
		}
		w := "environment variable " + name + " sets nothing"
		if near := config.Nearest(name, known); near != "" {
			w += ": did you mean " + near + "?"
		}
		warnings = append(warnings, w)
	}
	slices.Sort(warnings)
	return warnings
}
