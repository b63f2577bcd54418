package dtype

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
)

// golden is one conversion as the Python gguf package or numpy does it
// (scripts/goldens/dtype.py).
type golden struct{ Src, Want string }

func goldens(t *testing.T, kind string) map[Type]struct{ src, want []byte } {
	t.Helper()
	raw, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]golden
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	byType := map[Type]struct{ src, want []byte }{}
	for name, g := range all[kind] {
		typ, ok := typeNamed(name)
		if !ok {
			t.Fatalf("goldens.json: no format %s", name)
		}
		src, err1 := base64.StdEncoding.DecodeString(g.Src)
		want, err2 := base64.StdEncoding.DecodeString(g.Want)
		if err1 != nil || err2 != nil || len(src) == 0 || len(want) == 0 {
			t.Fatalf("goldens.json: %s/%s: %v, %v", kind, name, err1, err2)
		}
		byType[typ] = struct{ src, want []byte }{src, want}
	}
	return byType
}

func typeNamed(name string) (Type, bool) {
	for t, l := range layouts {
		if l.name == name {
			return t, true
		}
	}
	return 0, false
}

func floats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

func isNaN(x float32) bool { return x != x }

// same demands equal bits, save that any NaN matches any other.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || isNaN(a) && isNaN(b)
}

func TestToF32MatchesUpstream(t *testing.T) {
	all := goldens(t, "toF32")
	for typ := range layouts {
		t.Run(typ.String(), func(t *testing.T) {
			g, ok := all[typ]
			if !ok {
				t.Fatalf("no golden for %v: extend scripts/goldens/dtype.py", typ)
			}
			want := floats(g.want)
			got := make([]float32, len(want))
			if err := ToF32(got, typ, g.src); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if !same(got[i], want[i]) {
					t.Fatalf("value %d: got %v (%08x), want %v (%08x)", i, got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
				}
			}
		})
	}
}

func TestFromF32MatchesUpstream(t *testing.T) {
	convert := map[Type]func([]uint16, []float32){F16: F16FromF32s, BF16: BF16FromF32s}
	widen := map[Type]func([]float32, []uint16){F16: F32FromF16s, BF16: F32FromBF16s}
	all := goldens(t, "fromF32")
	for typ, f := range convert {
		src := floats(all[typ].src)
		got := make([]uint16, len(src))
		f(got, src)
		back := make([]float32, len(src))
		widen[typ](back, got)
		if len(src) == 0 {
			t.Fatalf("%v: no golden", typ)
		}
		for i, x := range src {
			want := binary.LittleEndian.Uint16(all[typ].want[2*i:])
			if isNaN(x) {
				if !isNaN(back[i]) {
					t.Errorf("%v of NaN %08x: got %04x, which is %v", typ, math.Float32bits(x), got[i], back[i])
				}
				continue
			}
			if got[i] != want {
				t.Errorf("%v of %v (%08x): got %04x, want %04x", typ, x, math.Float32bits(x), got[i], want)
			}
		}
	}
}

func TestQuantizeMatchesUpstream(t *testing.T) {
	quantizers := map[Type]func([]byte, []float32) error{Q8_0: QuantizeQ8_0, Q4_0: QuantizeQ4_0}
	all := goldens(t, "quantize")
	for typ, f := range quantizers {
		g := all[typ]
		got := make([]byte, len(g.want))
		if err := f(got, floats(g.src)); err != nil {
			t.Fatalf("%v: %v", typ, err)
		}
		for i := range got {
			if got[i] != g.want[i] {
				t.Fatalf("%v: block %d byte %d: got %02x, want %02x", typ, i/typ.BlockBytes(), i%typ.BlockBytes(), got[i], g.want[i])
			}
		}
	}
}

// Every half float survives the way to float32 and back.
func TestHalvesRoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		h := uint16(h)
		if x := F32FromF16(h); !isNaN(x) {
			if got := F16FromF32(x); got != h {
				t.Fatalf("float16 %04x is %v, which rounds to %04x", h, x, got)
			}
		} else if y := F32FromF16(F16FromF32(x)); h&0x7c00 != 0x7c00 || h&0x3ff == 0 || !isNaN(y) {
			t.Fatalf("float16 %04x became NaN and came back as %v", h, y)
		}
		if x := F32FromBF16(h); !isNaN(x) {
			if got := BF16FromF32(x); got != h {
				t.Fatalf("bfloat16 %04x is %v, which rounds to %04x", h, x, got)
			}
		} else if !isNaN(F32FromBF16(BF16FromF32(x))) {
			t.Fatalf("bfloat16 %04x lost its NaN", h)
		}
	}
}

// Between each two neighbours: below, at and above the midpoint.
func TestHalvesRoundToNearestEven(t *testing.T) {
	for _, f := range []struct {
		name   string
		widen  func(uint16) float32
		narrow func(float32) uint16
		top    uint16 // largest finite
	}{{"float16", F32FromF16, F16FromF32, 0x7bff}, {"bfloat16", F32FromBF16, BF16FromF32, 0x7f7f}} {
		for h := range f.top {
			low, high := float64(f.widen(h)), float64(f.widen(h+1))
			mid := float32(low + (high-low)/2)
			even := h + h&1
			below, above := math.Nextafter32(mid, -1), math.Nextafter32(mid, math.MaxFloat32)
			if a, b, c := f.narrow(below), f.narrow(mid), f.narrow(above); a != h || b != even || c != h+1 {
				t.Fatalf("%s: around %v: got %04x %04x %04x, want %04x %04x %04x", f.name, mid, a, b, c, h, even, h+1)
			}
			if got := f.narrow(-mid); got != even|0x8000 {
				t.Fatalf("%s of %v: got %04x, want %04x", f.name, -mid, got, even|0x8000)
			}
		}
	}
}

func TestQuantizeErrors(t *testing.T) {
	nan, huge := make([]float32, 64), make([]float32, 32)
	nan[40], huge[3] = float32(math.NaN()), 1e30
	inf := make([]float32, 32)
	inf[1] = float32(math.Inf(-1))
	for _, quantizer := range []struct {
		f    func([]byte, []float32) error
		size int
	}{{QuantizeQ8_0, 34}, {QuantizeQ4_0, 18}} {
		for _, c := range []struct {
			src  []float32
			dst  int
			want string
		}{
			{nan, 2 * quantizer.size, "value 40 is NaN"},
			{huge, quantizer.size, "too large"},
			{inf, quantizer.size, "too large"},
			{huge[:31], quantizer.size, "whole number"},
			{huge, quantizer.size - 1, "the destination has"},
		} {
			if err := quantizer.f(make([]byte, c.dst), c.src); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		}
	}
}

// A block whose scale vanishes must give zeros, not NaN.
func TestQuantizeTiny(t *testing.T) {
	src := make([]float32, 32)
	src[7] = math.SmallestNonzeroFloat32
	dst, back := make([]byte, 34), make([]float32, 32)
	if err := QuantizeQ8_0(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := ToF32(back, Q8_0, dst); err != nil {
		t.Fatal(err)
	}
	for i, x := range back {
		if x != 0 {
			t.Errorf("value %d: got %v, want 0", i, x)
		}
	}
}

func TestToF32Errors(t *testing.T) {
	for _, c := range []struct {
		t        Type
		dst, src int
		want     string
	}{
		{Q4_0, 32, 17, "take 18 bytes, have 17"},
		{Q4_0, 31, 18, "whole number"},
		{F32, 2, 9, "take 8 bytes, have 9"},
		{Type(4), 1, 4, "type(4) is not supported"},
	} {
		if err := ToF32(make([]float32, c.dst), c.t, make([]byte, c.src)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %d values, %d bytes: got %v, want an error with %q", c.t, c.dst, c.src, err, c.want)
		}
	}
	if err := ToF32(nil, Q6_K, nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func BenchmarkToF32(b *testing.B) {
	for _, t := range []Type{F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q6_K} {
		b.Run(t.String(), func(b *testing.B) {
			dst := make([]float32, 1<<16)
			n, err := t.Bytes(len(dst))
			if err != nil {
				b.Fatal(err)
			}
			src := make([]byte, n)
			b.SetBytes(int64(4 * len(dst)))
			for b.Loop() {
				if err := ToF32(dst, t, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
