package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// raw makes a file of a header and n bytes of tensor data.
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func one(dtype, shape string, begin, end uint64) string {
	return fmt.Sprintf(`{"w":{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}}`, dtype, shape, begin, end)
}

// two are tensors v and w, single bytes save for their offsets.
func two(begin1, end1, begin2, end2 int) string {
	return fmt.Sprintf(`{"v":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]},"w":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}}`,
		end1-begin1, begin1, end1, end2-begin2, begin2, end2)
}

type brokenFile struct {
	data []byte
	want string // in the error
}

func hostile() map[string]brokenFile {
	return map[string]brokenFile{
		"empty":                {nil, "not a safetensors file"},
		"short":                {make([]byte, 7), "not a safetensors file"},
		"no header":            {raw("", 0), "not a JSON object"},
		"header too large":     {binary.LittleEndian.AppendUint64(nil, maxHeader+1), "at most 100000000"},
		"header beyond int64":  {binary.LittleEndian.AppendUint64(nil, 1<<64-1), "at most 100000000"},
		"header cut":           {raw(`{"a":1}`, 0)[:12], "truncated"},
		"header missing":       {binary.LittleEndian.AppendUint64(nil, maxHeader), "truncated"},
		"array":                {raw("[]", 0), "not a JSON object"},
		"leading space":        {raw(" {}", 0), "not a JSON object"},
		"not UTF-8":            {raw("{\"\xff\":1}", 0), "not UTF-8"},
		"open object":          {raw("{", 0), "header: "},
		"open tensor":          {raw(`{"w":{`, 0), `tensor "w"`},
		"open string":          {raw(`{"w`, 0), "header: "},
		"open shape":           {raw(`{"w":{"shape":[1`, 0), `tensor "w": shape`},
		"two objects":          {raw("{}{}", 0), "something follows"},
		"rubbish behind":       {raw("{} x", 0), "something follows"},
		"name twice":           {raw(`{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), `"w" is there twice`},
		"field twice":          {raw(`{"w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), `"dtype" is there twice`},
		"field unknown":        {raw(`{"w":{"dtype":"U8","Shape":[0],"data_offsets":[0,0]}}`, 0), `field "Shape"`},
		"no dtype":             {raw(`{"w":{"shape":[0],"data_offsets":[0,0]}}`, 0), "lacks dtype"},
		"no shape":             {raw(`{"w":{"dtype":"U8","data_offsets":[0,0]}}`, 0), "lacks shape"},
		"no offsets":           {raw(`{"w":{"dtype":"U8","shape":[0]}}`, 0), "lacks data_offsets"},
		"tensor is a number":   {raw(`{"w":1}`, 0), `tensor "w": found 1`},
		"tensor is null":       {raw(`{"w":null}`, 0), `tensor "w": found`},
		"metadata is a number": {raw(`{"__metadata__":1}`, 0), "__metadata__: found 1"},
		"metadata of numbers":  {raw(`{"__metadata__":{"a":1}}`, 0), "__metadata__: found 1"},
		"metadata twice":       {raw(`{"__metadata__":{"a":"1","a":"2"}}`, 0), `"a" is there twice`},
		"dtype":                {raw(one("F8_E4M3", "[1]", 0, 1), 1), `tensor "w": dtype "F8_E4M3" is not supported`},
		"dtype of ggml":        {raw(one("Q4_0", "[32]", 0, 18), 18), `dtype "Q4_0" is not supported`},
		"dtype is a number":    {raw(`{"w":{"dtype":1,"shape":[0],"data_offsets":[0,0]}}`, 0), "dtype: found 1"},
		"negative dimension":   {raw(one("U8", "[-1]", 0, 1), 1), "-1 is not a natural number"},
		"fraction":             {raw(one("U8", "[1.5]", 0, 1), 1), "1.5 is not a natural number"},
		"exponent":             {raw(one("U8", "[1e2]", 0, 100), 100), "1e2 is not a natural number"},
		"dimension as string":  {raw(one("U8", `["1"]`, 0, 1), 1), "shape: found 1"},
		"nested shape":         {raw(one("U8", "[[1]]", 0, 1), 1), "shape: found ["},
		"dimension over int64": {raw(one("U8", "[9223372036854775808]", 0, 1), 1), "too large"},
		"dimension over 64":    {raw(one("U8", "[18446744073709551616]", 0, 1), 1), "not a natural number"},
		"values overflow":      {raw(one("F32", "[4294967296,4294967296]", 0, 0), 0), "too large"},
		"bytes overflow":       {raw(one("F32", "[4611686018427387904]", 0, 0), 0), "too large"},
		"zero hides overflow":  {raw(one("F32", "[4611686018427387904,4,0]", 0, 0), 0), "too large"},
		"three offsets":        {raw(`{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}`, 0), "has 3 numbers"},
		"backwards":            {raw(one("U8", "[1]", 1, 0), 1), "run backwards"},
		"size":                 {raw(one("F32", "[1]", 0, 3), 3), "take 4 bytes"},
		"offsets overflow":     {raw(one("U8", "[1]", 1<<64-1, 0), 1), "run backwards"},
		"far away":             {raw(one("U8", "[1]", 1<<64-2, 1<<64-1), 1), "hole"},
		"data cut":             {raw(one("F32", "[2]", 0, 8), 7), "truncated"},
		"data missing":         {raw(one("F32", "[1000000000000]", 0, 4000000000000), 7), "truncated"},
		"data behind":          {raw(one("F32", "[2]", 0, 8), 9), "1 bytes follow"},
		"only data":            {raw("{}", 1), "1 bytes follow"},
		"hole at the start":    {raw(one("U8", "[1]", 1, 2), 2), "hole"},
		"hole":                 {raw(two(0, 1, 2, 3), 3), `tensor "w": begins at 2, leaving a hole`},
		"overlap":              {raw(two(0, 2, 1, 3), 3), `tensor "w": begins at 1 and overlaps tensor "v"`},
		"same place":           {raw(two(0, 1, 0, 1), 1), "overlaps"},
	}
}

func TestHostileFiles(t *testing.T) {
	for name, c := range hostile() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.safetensors")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Open(path)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "bad.safetensors") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with the file's name and %q", err, c.want)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
				t.Errorf("allocated %d bytes for a file of %d", got, len(c.data))
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	whole, err := os.ReadFile("testdata/python.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := parse(whole[:n:n]); err == nil {
			t.Fatalf("cut to %d of %d bytes, it still opens", n, len(whole))
		}
	}
}

// FuzzOpen reads arbitrary bytes: no crash, no large allocation, and what
// opens can be converted and survives being written and read again.
func FuzzOpen(f *testing.F) {
	for _, path := range []string{"testdata/python.safetensors", "testdata/go.safetensors"} {
		golden, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(golden)
	}
	for _, c := range hostile() {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parse(data)
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors {
			if err := dtype.ToF32(make([]float32, len(tensor.Data)/tensor.Type.BlockBytes()), tensor.Type, tensor.Data); err != nil {
				t.Fatalf("tensor %q: %v", tensor.Name, err)
			}
		}
		again := encode(t, file)
		copied, err := parse(again)
		if err != nil {
			t.Fatalf("the copy does not open: %v", err)
		}
		if !bytes.Equal(encode(t, copied), again) {
			t.Fatal("the copy's copy differs")
		}
	})
}

func encode(t *testing.T, f *File) []byte {
	tensors := ordered(f.Tensors)
	header, err := encodeHeader(tensors, f.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeBody(&b, header, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
