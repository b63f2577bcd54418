package cpu

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// processor is the name of the CPU where the system tells it (Linux), else the
// architecture.
func processor() string {
	if name := systemValue("/proc/cpuinfo", "model name"); name != "" {
		return name
	}
	return runtime.GOARCH
}

// totalMemory is the machine's memory in bytes, 0 where the system does not
// tell it.
func totalMemory() int64 {
	kib, err := strconv.ParseInt(strings.TrimSuffix(systemValue("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// systemValue is the value of the first line "key: value" of a file.
func systemValue(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, found := strings.Cut(lines.Text(), ":")
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
