package ingest

import (
	"embed"
	"fmt"
)

// presetFiles are the presets that are mapping files themselves.
//
//go:embed presets/*.yaml
var presetFiles embed.FS

// preset compiles a preset of presetFiles.
func preset(name string) (*program, error) {
	file := "presets/" + name + ".yaml"
	text, err := presetFiles.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the preset: %w", err)
	}
	return compileMapping(file, text)
}
