package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/safetensors"
)

// tensorFact is one tensor of a file.
type tensorFact struct {
	Name  string     `json:"name"`
	Type  string     `json:"type"`
	Shape []int      `json:"shape"`
	dtype dtype.Type // of data
	data  []byte
}

func safetensorsList(list []safetensors.Tensor) []tensorFact {
	out := make([]tensorFact, len(list))
	for i, t := range list {
		out[i] = tensorFact{t.Name, t.Type.String(), t.Shape, t.Type, t.Data}
	}
	return out
}

// inspectTensors counts tensors by type and, unless quick, reads every value.
func (a *app) inspectTensors(ctx context.Context, o inspectOptions, i *inspection, tensors []tensorFact) error {
	byType := map[string]int{}
	var values, size int64
	for _, t := range tensors {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		byType[t.Type]++
		values, size = values+n, size+int64(len(t.data))
	}
	types := []string{}
	for t, n := range byType {
		types = append(types, fmt.Sprintf("%d %s", n, t))
	}
	slices.Sort(types)
	i.add("tensors", fmt.Sprintf("%d (%s)", len(tensors), strings.Join(types, ", ")))
	i.add("values", values)
	i.add("bytes", size)
	if o.tensors {
		i.Tensors = tensors
	}
	if o.quick {
		return nil
	}
	task := a.progress.task("read", true)
	defer task.end()
	var failed []error
	done := int64(0)
	for _, t := range tensors {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := finiteTensor(t); err != nil {
			failed = append(failed, err)
		}
		done += int64(len(t.data))
		task.update64(done, size)
	}
	if len(failed) > 3 {
		failed = append(failed[:3], fmt.Errorf("and %d more tensors", len(failed)-3))
	}
	return errors.Join(failed...)
}

// finiteTensor reads a tensor's values in parts and reports the first that is
// not finite.
func finiteTensor(t tensorFact) error {
	switch t.dtype {
	case dtype.I8, dtype.I16, dtype.I32, dtype.I64, dtype.U8, dtype.U16, dtype.U32, dtype.U64, dtype.Bool:
		return nil
	}
	blockLen, blockBytes := t.dtype.BlockLen(), t.dtype.BlockBytes()
	const part = 4096
	buf := make([]float32, part*blockLen)
	for from := 0; from < len(t.data); from += part * blockBytes {
		data := t.data[from:min(from+part*blockBytes, len(t.data))]
		values := buf[:len(data)/blockBytes*blockLen]
		if err := dtype.ToF32(values, t.dtype, data); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		for j, v := range values {
			if v-v != 0 { // NaN or infinite
				return fmt.Errorf("tensor %s: value %d is %v", t.Name, from/blockBytes*blockLen+j, v)
			}
		}
	}
	return nil
}
