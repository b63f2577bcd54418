//go:build !unix

package main

func stubborn() { panic("no interrupts to send") }
