// Package startup is imported by main alone, for what it does before other packages are initialized: imports that sort behind it, which are those
// of all libraries, find it done.
package startup

import (
	"runtime"
	"runtime/debug"
)

// early is how much larger than usual the heap may be when it is collected for the first time: 8 MB instead of 4. More would save a short command
// another collection, and stays with long runs: with 32 MB, verifying takes 15 MB more.
const early = 200

// A variable, since this has to be done before any other package does something.
var _ = relax()

// relax puts the first collection off, and says what the pace was. With that collection it is back, for what runs longer. GOGC, where it is set,
// is left alone.
func relax() int {
	usual := debug.SetGCPercent(early)
	if usual != 100 {
		debug.SetGCPercent(usual)
		return usual
	}
	first := new([16]byte) // nobody holds it: the first collection finds that
	runtime.AddCleanup(first, restore, usual)
	return usual
}

// restore leaves alone what a command has set for itself in the meantime.
func restore(usual int) {
	if now := debug.SetGCPercent(usual); now != early {
		debug.SetGCPercent(now)
	}
}
