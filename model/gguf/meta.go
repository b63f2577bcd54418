package gguf

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Meta is a file's metadata. A value has one of the Go types uint8, int8,
// uint16, int16, uint32, int32, uint64, int64, float32, float64, bool, string,
// a slice of one of these, or []any for an array of arrays.
type Meta map[string]any

// ErrNoKey is what the getters' errors wrap when the file lacks the key.
var ErrNoKey = errors.New("the file lacks this key")

// Has says whether the key is there.
func (m Meta) Has(key string) bool { _, ok := m[key]; return ok }

// Keys lists all keys in alphabetical order.
func (m Meta) Keys() []string { return slices.Sorted(maps.Keys(m)) }

// String is the text under key. It is an error when the key is missing (wraps
// ErrNoKey) or holds something else; so with all getters.
func (m Meta) String(key string) (string, error) { return get[string](m, key) }

// Bool is the truth value under key.
func (m Meta) Bool(key string) (bool, error) { return get[bool](m, key) }

// Uint is the integer of any width under key, which must not be negative.
func (m Meta) Uint(key string) (uint64, error) {
	v, err := m.value(key)
	if err != nil {
		return 0, err
	}
	if u, ok := v.(uint64); ok {
		return u, nil
	}
	i, err := toInt64(v)
	if err != nil {
		return 0, fmt.Errorf("key %q: %w", key, err)
	}
	if i < 0 {
		return 0, fmt.Errorf("key %q is %d: it must not be negative", key, i)
	}
	return uint64(i), nil
}

// Int is the integer of any width under key, if an int can hold it.
func (m Meta) Int(key string) (int, error) {
	v, err := m.value(key)
	if err != nil {
		return 0, err
	}
	i, err := toInt(v)
	if err != nil {
		return 0, fmt.Errorf("key %q: %w", key, err)
	}
	return i, nil
}

// Float is the number of either floating-point width under key.
func (m Meta) Float(key string) (float64, error) {
	v, err := m.value(key)
	if err != nil {
		return 0, err
	}
	switch v := v.(type) {
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	}
	return 0, fmt.Errorf("key %q holds %s, want a floating-point number", key, kindOf(v))
}

// Strings is the array of texts under key. It must not be changed.
func (m Meta) Strings(key string) ([]string, error) { return get[[]string](m, key) }

// Floats is the array of float32 numbers under key. It must not be changed.
func (m Meta) Floats(key string) ([]float32, error) { return get[[]float32](m, key) }

// Bools is the array of truth values under key. It must not be changed.
func (m Meta) Bools(key string) ([]bool, error) { return get[[]bool](m, key) }

// Ints is a copy of the array of integers of any width under key.
func (m Meta) Ints(key string) ([]int, error) {
	v, err := m.value(key)
	if err != nil {
		return nil, err
	}
	var ints []int
	switch v := v.(type) {
	case []uint8:
		ints, err = toInts(v)
	case []int8:
		ints, err = toInts(v)
	case []uint16:
		ints, err = toInts(v)
	case []int16:
		ints, err = toInts(v)
	case []uint32:
		ints, err = toInts(v)
	case []int32:
		ints, err = toInts(v)
	case []uint64:
		ints, err = toInts(v)
	case []int64:
		ints, err = toInts(v)
	default:
		err = fmt.Errorf("holds %s, want an array of integers", kindOf(v))
	}
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key, err)
	}
	return ints, nil
}

func (m Meta) value(key string) (any, error) {
	v, ok := m[key]
	if !ok {
		return nil, fmt.Errorf("key %q: %w", key, ErrNoKey)
	}
	return v, nil
}

func get[T any](m Meta, key string) (T, error) {
	v, err := m.value(key)
	if err != nil {
		var none T
		return none, err
	}
	t, ok := v.(T)
	if !ok {
		return t, fmt.Errorf("key %q holds %s, want %s", key, kindOf(v), kindOf(t))
	}
	return t, nil
}

func toInt64(v any) (int64, error) {
	switch v := v.(type) {
	case uint8:
		return int64(v), nil
	case int8:
		return int64(v), nil
	case uint16:
		return int64(v), nil
	case int16:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case int64:
		return v, nil
	case uint64:
		if v > math.MaxInt64 {
			return 0, fmt.Errorf("%d is too large", v)
		}
		return int64(v), nil
	}
	return 0, fmt.Errorf("holds %s, want an integer", kindOf(v))
}

func toInt(v any) (int, error) {
	i, err := toInt64(v)
	if err == nil && int64(int(i)) != i {
		err = fmt.Errorf("%d is too large", i)
	}
	return int(i), err
}

func toInts[T any](values []T) ([]int, error) {
	ints := make([]int, len(values))
	for i, v := range values {
		var err error
		if ints[i], err = toInt(v); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	return ints, nil
}

func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case bool:
		return "a truth value"
	case uint8, int8, uint16, int16, uint32, int32, uint64, int64:
		return fmt.Sprintf("an integer (%T)", v)
	case float32, float64:
		return fmt.Sprintf("a floating-point number (%T)", v)
	}
	return fmt.Sprintf("an array (%T)", v)
}
