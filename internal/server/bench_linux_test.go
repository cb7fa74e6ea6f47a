package server

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"

	"prestage/ckm"
)

// BenchmarkRange asks for small ranges, for which what is done for each request
// counts most.
func BenchmarkRange(b *testing.B) {
	s := start(b, Config{})
	add(b, s.folder, "win11", 100)
	c := s.dial("127.0.0.1")
	r := bufio.NewReaderSize(c, 4<<10)
	b.SetBytes(64 << 10)
	for i := 0; b.Loop(); i++ {
		at := i % 200 * 65536
		fmt.Fprintf(c, "GET %s%s HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n", Prefix, ckm.DataName("win11", 1), at, at+65535)
		resp, err := http.ReadResponse(r, nil)
		must(b, err)
		if n, err := io.Copy(io.Discard, resp.Body); n != 64<<10 || err != nil {
			b.Fatal(n, err)
		}
	}
}
