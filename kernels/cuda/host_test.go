//go:build gpu

package cuda

import (
	"bytes"
	"debug/elf"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// testDevice opens a GPU or skips the test with the reason.
func testDevice(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Skipf("no GPU: %v", err)
	}
	return d.(*Device)
}

func TestOpenWithoutGPU(t *testing.T) {
	infos, err := Devices()
	if err == nil {
		if _, err := Open(Options{Device: len(infos)}); err == nil || !strings.Contains(err.Error(), "this machine has") {
			t.Errorf("opening GPU %d of %d: %v", len(infos), len(infos), err)
		}
		return
	}
	for range 2 { // the reason stays the same
		d, e := Open(Options{})
		if d != nil || e == nil || !strings.Contains(e.Error(), "no usable GPU: ") || e.Error() != err.Error() {
			t.Fatalf("Open = %v, %v; Devices: %v", d, e, err)
		}
	}
	if path, e := openDriver(); e == nil || path != "" {
		t.Errorf("openDriver = %q, %v", path, e)
	}
}

// kernelNames reads the names of the kernels out of the sources.
func kernelNames(t *testing.T, source string) []string {
	t.Helper()
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^KERNEL (?:__launch_bounds__\([^)]*\) )?(\w+)\(`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	for macro, prefix := range map[string]string{"DEQUANT": "dequant_", "SCAN_HASH": "scan_hash_", "FUSED": "fused_"} {
		for _, m := range regexp.MustCompile(`(?m)^`+macro+`\(([^)]*)\)`).FindAllStringSubmatch(string(text), -1) {
			args := strings.Split(m[1], ", ")
			if macro == "FUSED" {
				args = args[:3]
			}
			names = append(names, prefix+strings.Join(args, "_"))
		}
	}
	return names
}

func TestCompiledKernels(t *testing.T) {
	sources, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, code := range []string{"sm_80", "sm_89", "sm_90", "compute_90", "compute_80"} {
		all, err := images(code)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range sources {
			name, isKernel := strings.CutSuffix(f.Name(), ".cu")
			if !isKernel || name == "fused" && (strings.HasPrefix(code, "sm_8") || code == "compute_80") { // clusters from 9.0 on
				continue
			}
			image, ok := all[name]
			if !ok {
				t.Errorf("%s: no %s", code, name)
				continue
			}
			has := func(kernel string) bool { return strings.Contains(image, ".entry "+kernel+"(") }
			if strings.HasPrefix(code, "sm_") {
				// NVIDIA's e_version is a format of its own
				file, err := elf.NewFile(bytes.NewReader([]byte(image[:20] + "\x01\x00\x00\x00" + image[24:])))
				if err != nil {
					t.Errorf("%s for %s: %v", name, code, err)
					continue
				}
				const cuda = elf.Machine(190)
				if file.Machine != cuda {
					t.Errorf("%s for %s: machine %v", name, code, file.Machine)
				}
				symbols, err := file.Symbols()
				if err != nil {
					t.Errorf("%s for %s: %v", name, code, err)
					continue
				}
				has = func(kernel string) bool {
					return slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == kernel && elf.ST_TYPE(s.Info) == elf.STT_FUNC })
				}
			}
			names := kernelNames(t, f.Name())
			if len(names) == 0 {
				t.Errorf("%s: no kernels in the source", f.Name())
			}
			checked += len(names)
			for _, kernel := range names {
				if !has(kernel) {
					t.Errorf("%s for %s lacks %s", name, code, kernel)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("%d kernels checked: the test runs in the folder of the sources", checked)
	}
	if _, err := images("sm_10"); err == nil {
		t.Error("kernels for sm_10")
	}
}

// TestLaunchedNames checks that every kernel that Go code launches exists.
func TestLaunchedNames(t *testing.T) {
	var names []string
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".cu") {
			names = append(names, kernelNames(t, f.Name())...)
		}
	}
	launched := 0
	call := regexp.MustCompile(`d\.(?:launch|queueKernel|flat|elementwise)\("(\w+)"`)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			launched++
			if !slices.ContainsFunc(names, func(n string) bool { return n == m[1] || n == m[1]+"BF16" }) {
				t.Errorf("%s launches %s, which no source defines", f.Name(), m[1])
			}
		}
	}
	if launched < 15 {
		t.Errorf("%d launches found", launched)
	}
	for _, f := range []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1, dtype.Q8_0, dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K} {
		if !slices.Contains(names, "dequant_"+f.String()) {
			t.Errorf("no kernel dequantises %v", f)
		}
	}
}

func TestCodeFor(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		want         string
	}{{7, 5, ""}, {8, 0, "sm_80"}, {8, 6, "sm_80"}, {8, 7, "sm_80"}, {8, 9, "sm_89"}, {9, 0, "sm_90"}, {10, 0, "compute_90"}, {12, 1, "compute_90"}} {
		got, err := codeFor(c.major, c.minor)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%d.%d: %q, %v, want %q", c.major, c.minor, got, err, c.want)
		}
	}
}

func TestStructSizes(t *testing.T) {
	// sizes of the structs of the .cu files, by their members
	for name, c := range map[string][2]uintptr{
		"Selection":   {unsafe.Sizeof(selection{}), 32},
		"AttendArgs":  {unsafe.Sizeof(attendArgs{}), 8*8 + 8*4 + 4*4 + 32 + 40},
		"PrefillArgs": {unsafe.Sizeof(prefillArgs{}), 5*8 + 6*4},
		"EncodeArgs":  {unsafe.Sizeof(encodeArgs{}), 18*8 + 24 + 8 + 6*4 + 3*8 + 6*4 + 2*8 + 8},
		"EncodeStep":  {unsafe.Sizeof(encodeStep{}), 2 * 272},
		"TopKArgs":    {unsafe.Sizeof(topKArgs{}), 4*8 + 4*4 + 32},
		"RerankArgs":  {unsafe.Sizeof(rerankArgs{}), 7*8 + 10*4 + 32},
		"Linears":     {unsafe.Sizeof(linears{}), 9*8 + 6*4 + 8 + 4*4 + 2*8 + 2*4 + 4*8 + 2*4 + 4*8 + 2*4},
		"FusedArgs":   {unsafe.Sizeof(fusedArgs{}), 7*8 + 18*4 + 32 + 40},
	} {
		if c[0] != c[1] || c[0]%8 != 0 {
			t.Errorf("%s has %d bytes, want %d", name, c[0], c[1])
		}
	}
	s := selectionOf(kernels.Selection{Heads: 3, Sink: 128, Local: 64, Budget: kernels.Budget{Num: 1, Den: 32}, Candidates: 2})
	words, at := encode([]any{7, -1, float32(1.5), true, s, uint64(9)})
	if !slices.Equal(at, []cInt{0, 1, 2, 3, 4, 8}) || words[0] != 7 || int64(words[1]) != -1 || words[2] != 0x3fc00000 || words[3] != 1 || words[8] != 9 {
		t.Errorf("arguments %v at %v", words, at)
	}
	if words[4] != 128<<32|3 || words[5] != 1<<32|64 || words[6] != 32 || words[7] != 2 {
		t.Errorf("selection %v", words[4:8])
	}
}

func TestLaunchSizes(t *testing.T) {
	last := 0
	for n := 1; n < 2_000_000; n += 1 + n/50 {
		l := limitOf(n)
		if l < n || l < last || l > max(1024, n*5/4+8) {
			t.Fatalf("bucket of %d is %d, before %d", n, l, last)
		}
		if limitOf(l) != l {
			t.Fatalf("bucket %d is not its own", l)
		}
		last = l
	}
	for _, c := range []struct{ sets, read, dim, want int }{
		{8, 131072, 128, 33}, {64, 32768, 128, 4}, {8, 100, 128, 1}, {10000, 131072, 64, 1}, {8, 131072, 256, 16}, {1, 300, 64, 3},
	} {
		if got := attendSplits(c.sets, c.read, 132, c.dim); got != c.want {
			t.Errorf("%+v: %d splits", c, got)
		}
	}
	for stride, want := range map[int]int{32: 1, 352: 1, 384: 2, 1536: 8, 8960: 8} {
		if got := linearSplit(stride); got != want {
			t.Errorf("rows of %d: split %d, want %d", stride, got, want)
		}
	}
}

func TestPlanFused(t *testing.T) {
	for _, limit := range []int{1024, 8192, 32768, 131072, 262144} {
		for _, words := range []int{1, 2, 4} {
			for _, dim := range []int{64, 128, 256} {
				shape := fusedShape{limit, limit/8 + 256, words, 32 * words * 127, 8, dim, false}
				reranked := shape
				reranked.rerank = true
				if p := reranked.plan(16, 8); !p.reranks || p.shared < shape.plan(16, 8).shared+4*p.listed*10 {
					t.Fatalf("%+v leaves no room for logits: %+v", reranked, p)
				}
				for _, sets := range []int{1, 8, 64, 512} {
					blocks, warps := fusedBlocks(shape, sets, 132)
					if blocks < 2 || blocks > 16 || blocks&(blocks-1) != 0 || warps != 4 && warps != 8 {
						t.Fatalf("%d blocks of %d warps", blocks, warps)
					}
					for ; blocks <= 16; blocks *= 2 {
						p := shape.plan(blocks, warps)
						if p.levels*blocks < limit || p.listed*blocks < shape.reads {
							t.Fatalf("%+v, %d blocks: %+v leaves tokens out", shape, blocks, p)
						}
						if p.bins%8 != 0 || p.bins > 1024 || p.bins <= min(shape.most, 1023) {
							t.Fatalf("%+v: %d bins", shape, p.bins)
						}
						if p.fits() && p.shared+fusedStatic > sharedMemory {
							t.Fatalf("%+v does not fit", p)
						}
						if q := p.spread(sets, 132); p.fits() && !q.fits() || q.shared < p.shared {
							t.Fatalf("%+v does not fit when spread: %+v", p, q)
						}
					}
				}
				if p := shape.plan(16, 8); limit <= 131072 && !p.fits() {
					t.Errorf("%+v: %+v does not fit 16 blocks", shape, p)
				}
			}
		}
	}
}

func TestBLASCandidates(t *testing.T) {
	t.Setenv("HASHATTN_CUBLAS", "/from/environment")
	c := blasCandidates("/chosen")
	if c[0] != "/chosen" || c[1] != "/from/environment" || !slices.Contains(c, "libcublas.so.12") || !slices.Contains(c, "libcublas.so.13") {
		t.Errorf("candidates %v", c)
	}
	if _, err := Devices(); err == nil {
		t.Skip("a device may have loaded cuBLAS, which a process loads once")
	}
	if _, err := openBLAS(queue{}, []string{"/nonexistent/libcublas.so"}, 0, 0); err == nil || !strings.Contains(err.Error(), "HASHATTN_CUBLAS") {
		t.Errorf("openBLAS: %v", err)
	}
}

func TestHostileShapes(t *testing.T) {
	for _, shape := range [][]int{{1 << 40, 1 << 40}, {-1}, {1 << 62, 4}, {1 << 51}} {
		if n, err := sizeOf(dtype.F32, shape); err == nil {
			t.Errorf("%v has %d bytes", shape, n)
		}
	}
	if n, err := sizeOf(dtype.BF16, []int{3, 0, 5}); n != 0 || err != nil {
		t.Errorf("empty tensor: %d, %v", n, err)
	}
}
