package cpu

import (
	"golang.org/x/sys/cpu"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// machineSets are the assembly kernel sets that this processor runs.
func machineSets() []*kernelSet {
	var sets []*kernelSet
	x := cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VBMI {
		sets = append(sets, &avx512)
	}
	// processors with AVX2 and FMA have F16C
	if x.HasAVX2 && x.HasFMA {
		sets = append(sets, &avx2)
	}
	return sets
}

var avx512 = kernelSet{
	name: "avx512", lanes: 16, tileRows: 12, tileCols: 32, keys: 4,
	ask: ask, projectF32: projectF32AVX512, projectBF16: projectBF16AVX512, tile: tileAVX512, transpose: transposeAVX512,
	dotAtF32:  [4]func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotAtF321AVX512, dotAtF322AVX512, dotAtF323AVX512, dotAtF324AVX512},
	dotAtBF16: [4]func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotAtBF161AVX512, dotAtBF162AVX512, dotAtBF163AVX512, dotAtBF164AVX512},
	mixAtF32:  [4]func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixAtF321AVX512, mixAtF322AVX512, mixAtF323AVX512, mixAtF324AVX512},
	mixAtBF16: [4]func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixAtBF161AVX512, mixAtBF162AVX512, mixAtBF163AVX512, mixAtBF164AVX512},
	dotF32:    [4]func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotF321AVX512, dotF322AVX512, dotF323AVX512, dotF324AVX512},
	dotBF16:   [4]func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotBF161AVX512, dotBF162AVX512, dotBF163AVX512, dotBF164AVX512},
	mixF32:    [4]func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixF321AVX512, mixF322AVX512, mixF323AVX512, mixF324AVX512},
	mixBF16:   [4]func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixBF161AVX512, mixBF162AVX512, mixBF163AVX512, mixBF164AVX512},
	maximum:   maximumAVX512, expSum: expSumAVX512, softmaxColumns: softmaxColumnsAVX512, scaleColumns: scaleColumnsAVX512,
	gate: gateAVX512, scaleBy: scaleByAVX512, addTo: addToAVX512, widen: widenAVX512, readAll: readAllAVX512,
	toFloat: toFloatAVX512, reach: reachAVX512, choose: chooseAVX512, scanCutNarrow: scanCutNarrowAVX512, scanCutWide: scanCutWideAVX512,
	scanUnit: 1, cutUnit: 1, scanNarrow: scanNarrowAVX512, scanWide: scanWideAVX512, cutI32: cutI32AVX512, cutF32: cutF32AVX512,
	formats: map[dtype.Type]formatKernels{
		dtype.F32:  {32, dequantF32AVX512, productF32AVX512},
		dtype.BF16: {32, dequantBF16AVX512, productBF16AVX512},
		dtype.F16:  {32, dequantF16AVX512, productF16AVX512},
		dtype.Q8_0: {32, dequantQ8_0AVX512, productQ8_0AVX512},
		dtype.Q4_0: {32, dequantQ4_0AVX512, productQ4_0AVX512},
		dtype.Q4_1: {32, dequantQ4_1AVX512, productQ4_1AVX512},
		dtype.Q5_0: {32, dequantQ5_0AVX512, productQ5_0AVX512},
		dtype.Q5_1: {32, dequantQ5_1AVX512, productQ5_1AVX512},
		dtype.Q2_K: {256, dequantQ2_KAVX512, productQ2_KAVX512},
		dtype.Q3_K: {256, dequantQ3_KAVX512, productQ3_KAVX512},
		dtype.Q4_K: {256, dequantQ4_KAVX512, productQ4_KAVX512},
		dtype.Q5_K: {256, dequantQ5_KAVX512, productQ5_KAVX512},
		dtype.Q6_K: {256, dequantQ6_KAVX512, productQ6_KAVX512},
	},
}

var avx2 = kernelSet{
	name: "avx2", lanes: 8, tileRows: 6, tileCols: 16, keys: 2,
	ask: ask, projectF32: projectF32AVX2, projectBF16: projectBF16AVX2, tile: tileAVX2, transpose: transposeAVX2,
	dotAtF32:  [4]func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotAtF321AVX2, dotAtF322AVX2, dotAtF323AVX2, dotAtF324AVX2},
	dotAtBF16: [4]func(width, rows, listed int, at *int32, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotAtBF161AVX2, dotAtBF162AVX2, dotAtBF163AVX2, dotAtBF164AVX2},
	mixAtF32:  [4]func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixAtF321AVX2, mixAtF322AVX2, mixAtF323AVX2, mixAtF324AVX2},
	mixAtBF16: [4]func(width, rows, listed int, at *int32, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixAtBF161AVX2, mixAtBF162AVX2, mixAtBF163AVX2, mixAtBF164AVX2},
	dotF32:    [4]func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotF321AVX2, dotF322AVX2, dotF323AVX2, dotF324AVX2},
	dotBF16:   [4]func(width, rows, ahead int, k *byte, ldk int, q *float32, ldq int, out *float32, ldo int){dotBF161AVX2, dotBF162AVX2, dotBF163AVX2, dotBF164AVX2},
	mixF32:    [4]func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixF321AVX2, mixF322AVX2, mixF323AVX2, mixF324AVX2},
	mixBF16:   [4]func(width, rows int, v *byte, ldv int, p *float32, ldp int, out *float32, ldo int){mixBF161AVX2, mixBF162AVX2, mixBF163AVX2, mixBF164AVX2},
	maximum:   maximumAVX2, expSum: expSumAVX2, softmaxColumns: softmaxColumnsAVX2, scaleColumns: scaleColumnsAVX2,
	gate: gateAVX2, scaleBy: scaleByAVX2, addTo: addToAVX2, widen: widenAVX2, readAll: readAllAVX2,
	toFloat: toFloatAVX2, reach: reachAVX2, choose: choosePortable,
	scanUnit: 32, cutUnit: 8, scanNarrow: scanAVX2, scanWide: scanAVX2, cutI32: cutI32AVX2, cutF32: cutF32AVX2,
	formats: map[dtype.Type]formatKernels{
		dtype.F32:  {32, dequantF32AVX2, productF32AVX2},
		dtype.BF16: {32, dequantBF16AVX2, productBF16AVX2},
		dtype.F16:  {32, dequantF16AVX2, productF16AVX2},
		dtype.Q8_0: {32, dequantQ8_0AVX2, productQ8_0AVX2},
		dtype.Q4_0: {32, dequantQ4_0AVX2, productQ4_0AVX2},
		dtype.Q4_1: {32, dequantQ4_1AVX2, productQ4_1AVX2},
		dtype.Q5_0: {32, dequantQ5_0AVX2, productQ5_0AVX2},
		dtype.Q5_1: {32, dequantQ5_1AVX2, productQ5_1AVX2},
		dtype.Q2_K: {256, dequantQ2_KAVX2, productQ2_KAVX2},
		dtype.Q3_K: {256, dequantQ3_KAVX2, productQ3_KAVX2},
		dtype.Q4_K: {256, dequantQ4_KAVX2, productQ4_KAVX2},
		dtype.Q5_K: {256, dequantQ5_KAVX2, productQ5_KAVX2},
		dtype.Q6_K: {256, dequantQ6_KAVX2, productQ6_KAVX2},
	},
}
