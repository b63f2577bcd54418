// Package latency times attention: one layer's step and its stages on random
// keys of a shape (attention.go, hash.go), prefill and whole decode steps of a
// model, real or of random weights (model.go, random.go), and estimates of the
// same on cards that are not at hand (project.go).
//
// Outputs are compared with the reference device's before anything is timed
// (check.go); times are medians from cold caches (stopwatch.go).
package latency
