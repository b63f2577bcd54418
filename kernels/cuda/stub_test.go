//go:build !gpu

package cuda

import (
	"strings"
	"testing"
)

func TestOpenWithoutTag(t *testing.T) {
	d, err := Open(Options{})
	if d != nil || err == nil {
		t.Fatalf("Open = %v, %v, want an error", d, err)
	}
	if _, e := Devices(); e == nil || e.Error() != err.Error() {
		t.Errorf("Devices: %v, want %v", e, err)
	}
	for _, want := range []string{"tag gpu", "scripts/build-gpu.sh"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
}
