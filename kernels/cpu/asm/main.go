// Command asm generates the assembly of package cpu with avo. Each group of
// kernels is one file; every kernel is written once and emitted for each
// instruction set, with the instruction set's vector width and register count.
//
//	go run ./asm GROUP -out FILE.s -stubs FILE.go -pkg cpu
package main

import (
	"fmt"
	"os"

	"github.com/mmcloughlin/avo/build"
)

var groups = map[string]func(){
	"gemm":    gemm,
	"dots":    dots,
	"numeric": numeric,
	"quant":   quant,
	"scan":    scan,
}

func main() {
	if len(os.Args) < 2 || groups[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: asm gemm|dots|numeric|quant|scan -out FILE.s -stubs FILE.go -pkg cpu")
		os.Exit(2)
	}
	group := groups[os.Args[1]]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	group()
	build.Generate()
}
