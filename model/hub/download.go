package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Connections that cannot be made fail soon, so that the next source gets its
// turn; a transfer that stops is tried again.
const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 30 * time.Second
	maxFailures    = 4 // in a row, without a new byte
)

// Changed by tests.
var (
	stallTimeout = 60 * time.Second
	retryPause   = time.Second
)

func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:   connectTimeout,
			ResponseHeaderTimeout: answerTimeout,
			DisableCompression:    true, // ranges count the bytes of the file itself
			ForceAttemptHTTP2:     true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) >= 10 {
				return errors.New("more than 10 redirects")
			}
			if req.URL.Host != via[0].URL.Host { // net/http would still send it to subdomains
				req.Header.Del("Authorization")
			}
			return nil
		},
	}
}

// prepare makes a request for a URL of the hub.
func (p *puller) prepare(ctx context.Context, method, address string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "hashattn")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	return req, nil
}

// get asks for a URL of the hub, from a byte offset on.
func (p *puller) get(ctx context.Context, address string, offset int64) (*http.Response, error) {
	req, err := p.prepare(ctx, http.MethodGet, address)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.client.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) { // its text would show a redirect's signed address
		err = failed.Err
	}
	return resp, err
}

// statusError is an answer other than the file.
type statusError struct {
	status int
	text   string
}

func (e statusError) Error() string {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return e.text + ": the repository does not exist, or it needs a token in HF_TOKEN whose owner has accepted its terms"
	case http.StatusNotFound:
		return e.text + ": the repository, revision or file does not exist"
	}
	return e.text
}

// passing says whether trying again may help. A connection that cannot be
// made is left to the next source.
func passing(err error) bool {
	var status statusError
	if errors.As(err, &status) {
		return status.status >= 500 || status.status == http.StatusTooManyRequests || status.status == http.StatusRequestTimeout
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op == "read"
	}
	return errors.Is(err, errStopped) || errors.Is(err, errRestart) || errors.Is(err, io.EOF)
}

var (
	errStopped = errors.New("the transfer broke off")
	errRestart = errors.New("the server does not go on where the last attempt ended")
)

// download gets size bytes from address, checks them and puts them at path.
// It goes on with what an earlier download of the same content left. Only one
// process may download a content at a time: the caller holds its lock.
func (p *puller) download(ctx context.Context, address string, want checksum, size int64, path, what string) error {
	part := p.partial(want, ".part")
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return err
	}
	for {
		resumed, err := p.transfer(ctx, address, part, size, what)
		if err != nil {
			return err
		}
		err = p.verify(part, want, size, what)
		if err == nil {
			return settle(part, path)
		}
		if !errors.As(err, &wrongChecksum{}) {
			return err
		}
		if err := os.Remove(part); err != nil {
			return err
		}
		if !resumed { // else the earlier part may be what is wrong: once more from the start
			return err
		}
	}
}

// transfer fills the partial file up to size bytes, over as many requests as
// it takes. It says whether the file held something before.
func (p *puller) transfer(ctx context.Context, address, part string, size int64, what string) (resumed bool, err error) {
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return false, err
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if have > size {
		have = 0
		if err := restart(f); err != nil {
			return false, err
		}
	}
	resumed = have > 0
	best := have // a server that starts over again and again makes no progress
	for failures := 0; have < size; {
		err := p.request(ctx, address, f, have, size, what)
		if have, _ = f.Seek(0, io.SeekEnd); have == size && err == nil {
			break
		}
		if ctx.Err() != nil {
			return resumed, ctx.Err()
		}
		if err != nil && !passing(err) {
			return resumed, err
		}
		if failures++; have > best {
			best, failures = have, 0
		}
		if failures == maxFailures {
			return resumed, fmt.Errorf("%w (%d of %d bytes are kept for the next attempt)", err, have, size)
		}
		select {
		case <-ctx.Done():
			return resumed, ctx.Err()
		case <-time.After(time.Duration(failures+1) * retryPause):
		}
	}
	return resumed, f.Close()
}

func restart(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// request makes one request and appends what comes to f, which holds have bytes.
func (p *puller) request(ctx context.Context, address string, f *os.File, have, size int64, what string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := p.get(ctx, address, have)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK: // all of it, asked for or not
		if have > 0 {
			have = 0
			if err := restart(f); err != nil {
				return err
			}
		}
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
	case resp.StatusCode == http.StatusPartialContent, resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		if err := restart(f); err != nil {
			return err
		}
		return errRestart
	default:
		return statusError{resp.StatusCode, "the server answers " + resp.Status}
	}
	if resp.ContentLength >= 0 && have+resp.ContentLength != size {
		return fmt.Errorf("the server has a file of %d bytes, want %d: it is another file", have+resp.ContentLength, size)
	}

	stalled := time.AfterFunc(stallTimeout, func() { cancel(errStopped) })
	defer stalled.Stop()
	buffer := make([]byte, 1<<18)
	for {
		n, err := resp.Body.Read(buffer)
		stalled.Reset(stallTimeout)
		if have+int64(n) > size {
			return fmt.Errorf("the server sends more than the file's %d bytes: it is another file", size)
		}
		if _, err := f.Write(buffer[:n]); err != nil {
			return err
		}
		have += int64(n)
		p.progress(have, size, what)
		if err == io.EOF {
			if have < size {
				return fmt.Errorf("%w after %d of %d bytes", errStopped, have, size)
			}
			return nil
		}
		if err != nil {
			if context.Cause(ctx) != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: %w", errStopped, err)
		}
	}
}
