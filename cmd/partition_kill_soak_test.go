//go:build soak

package cmd

import "testing"

func TestSoakConvertKilled(t *testing.T) {
	t.Parallel()
	convertKilled(t, 25, 300_000)
}
