package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"prestage/ckm"
	"prestage/internal/repo"
	"prestage/internal/server/upload"
)

// publishWait is how long who publishes waits for an answer; checking may take
// longer, and nothing between us and the client is to take that for silence.
const publishWait = 5 * time.Second

// keepStore looks after the store of uploads until it is told to stop.
func (s *Server) keepStore(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); s.store.Run(ctx) }()
	return func() {
		cancel()
		<-done
		s.store.Close()
	}
}

// isWrite reports whether a request has to do with changing what is here.
func isWrite(r *http.Request) bool {
	name, below := strings.CutPrefix(r.URL.Path, Prefix)
	return below && (r.Method == http.MethodDelete || strings.HasPrefix(name, repo.UploadPath))
}

// write answers to requests of writers: those below upload/, and DELETE of the INDEX
// of a package, which is what makes it one.
func (s *Server) write(w *answer, r *http.Request, name string) {
	if below, ok := strings.CutPrefix(name, repo.UploadPath); ok {
		w.purpose = forUpload
		s.upload(w, r, below)
		return
	}
	w.purpose = forRemoval
	image, version, ext, ok := ckm.ParseFileName(name)
	switch {
	case r.ContentLength != 0:
		w.Header().Set("Connection", "close")
		fail(w, http.StatusRequestEntityTooLarge)
	case !ok || ext != ckm.IndexExt:
		w.Header().Set("Allow", "GET, HEAD")
		because(w, http.StatusMethodNotAllowed, "a package is removed by its INDEX")
	case s.mayWrite(w, image):
		err := s.config.Folder.Remove(r.Context(), image, version)
		if err == nil {
			s.config.Log.Info(fmt.Sprintf("%s is removed, by %s", repo.ImageName(image, version), w.reader))
			w.WriteHeader(http.StatusNoContent)
			return
		}
		s.failWrite(w, r, err)
	}
}

// mayWrite reports whether who asks may write an image, or answers that it may not.
func (s *Server) mayWrite(w *answer, image string) bool {
	switch {
	case !s.gate.MayWrite(w.reader, image):
		if w.reader != "" {
			because(w, http.StatusForbidden, fmt.Sprintf("%s is no writer of %s in the server's file of rights", w.reader, image))
		} else {
			s.unknown(w)
		}
	case s.plain:
		because(w, http.StatusForbidden, "packages are taken over TLS alone")
	default:
		return true
	}
	return false
}

// upload answers to what is below upload/.
func (s *Server) upload(w *answer, r *http.Request, below string) {
	id, part, ok := uploadOf(below)
	if !ok {
		fail(w, http.StatusNotFound)
		return
	}
	if !s.mayWrite(w, id.Name) {
		return
	}
	id.Owner = string(w.reader)
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case part != "" && r.Method == http.MethodPatch:
		s.appendPiece(w, r, id, part)
	case part != "":
		w.Header().Set("Allow", "PATCH")
		fail(w, http.StatusMethodNotAllowed)
	case r.ContentLength != 0:
		w.Header().Set("Connection", "close")
		fail(w, http.StatusRequestEntityTooLarge)
	case r.Method == http.MethodGet:
		st, err := s.store.State(r.Context(), id)
		if err != nil {
			s.failWrite(w, r, err)
			return
		}
		s.tellState(w, http.StatusOK, st)
	case r.Method == http.MethodPost:
		// Over HTTP/2, a stream that has no time to write ends.
		w.control.SetWriteDeadline(time.Now().Add(s.patience.stall + 4*publishWait))
		done, err := s.store.Publish(r.Context(), id, publishWait)
		switch {
		case err != nil:
			s.failWrite(w, r, err)
		case done:
			s.tellState(w, http.StatusOK, repo.UploadState{Published: true})
		default: // it should be asked again
			s.tellState(w, http.StatusAccepted, repo.UploadState{})
		}
	default:
		w.Header().Set("Allow", "GET, POST")
		fail(w, http.StatusMethodNotAllowed)
	}
}

func (s *Server) tellState(w *answer, code int, st repo.UploadState) {
	b, err := json.Marshal(st)
	if err != nil {
		panic(err) // plain data
	}
	w.extend(0)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

// uploadOf reads NAME_N/DIGEST, or NAME_N/DIGEST/PART.
func uploadOf(path string) (id upload.ID, part string, ok bool) {
	words := strings.Split(path, "/")
	if len(words) < 2 || len(words) > 3 {
		return id, "", false
	}
	var ext string
	if id.Name, id.Version, ext, ok = ckm.ParseFileName(words[0] + ckm.IndexExt); !ok || ext != ckm.IndexExt {
		return id, "", false
	}
	digest, err := hex.DecodeString(words[1])
	if err != nil || len(digest) != len(id.Digest) || words[1] != strings.ToLower(words[1]) {
		return id, "", false
	}
	id.Digest = ckm.Digest(digest)
	if len(words) == 3 {
		part = words[2]
		ok = part == repo.UploadIndex || part == repo.UploadData || part == repo.UploadPatch
	}
	return id, part, ok
}

// appendPiece takes a piece of a part.
func (s *Server) appendPiece(w *answer, r *http.Request, id upload.ID, part string) {
	offset, err1 := number(r, repo.UploadOffset)
	length, err2 := number(r, repo.UploadLength)
	switch {
	case r.ContentLength < 0:
		w.Header().Set("Connection", "close")
		because(w, http.StatusLengthRequired, "a piece says how long it is")
		return
	case r.Header.Get("Content-Type") != repo.UploadType || r.Header.Get("Content-Encoding") != "":
		w.Header().Set("Connection", "close")
		because(w, http.StatusUnsupportedMediaType, "a piece is "+repo.UploadType)
		return
	case err1 != nil || err2 != nil:
		w.Header().Set("Connection", "close")
		because(w, http.StatusBadRequest, errors.Join(err1, err2).Error())
		return
	}
	body := &inflow{w: w, body: r.Body, more: r.ContentLength, stall: s.patience.stall}
	at, err := s.store.Append(r.Context(), id, upload.Piece{Part: part, Offset: offset, Bytes: r.ContentLength, Length: length,
		Complete: r.Header.Get(repo.UploadComplete) == "?1", Body: body, Interrupt: body.interrupt})
	w.extend(0)
	h := w.Header()
	if body.interrupted.Load() { // its reads fail from now on
		h.Set("Connection", "close")
	}
	h.Set(repo.UploadOffset, strconv.FormatInt(at.Offset, 10))
	h.Set(repo.UploadComplete, "?0")
	if at.Until > 0 {
		h.Set(repo.UploadUntil, strconv.FormatInt(at.Until, 10))
	}
	if at.Complete {
		h.Set(repo.UploadComplete, "?1")
	}
	if err != nil {
		h.Set("Connection", "close") // what is left of the piece is nothing for us
		s.failWrite(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func number(r *http.Request, field string) (int64, error) {
	values := r.Header.Values(field)
	if len(values) != 1 {
		return 0, fmt.Errorf("the field %s is there %d times, and should be once", field, len(values))
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || n < 0 || n > 1<<62 || values[0][0] == '+' {
		return 0, fmt.Errorf("%s is no number of bytes", field)
	}
	return n, nil
}

// errInterrupted says that another request goes on where this one was.
var errInterrupted = errors.New("another request goes on with this upload")

// inflow is the body of a request, whose client must get on: for each so many bytes
// it has so much time.
type inflow struct {
	w           *answer
	body        io.Reader
	more        int64 // bytes that it has
	stall       time.Duration
	left        int // bytes for which its client has been given time
	interrupted atomic.Bool
}

// paid is for how many bytes a client is given time at once.
const paid = 64 << 10

// Read implements io.Reader.
func (b *inflow) Read(p []byte) (int, error) {
	if b.left == 0 {
		if b.left = int(min(paid, b.more)); b.left == 0 {
			return 0, io.EOF
		}
		until := time.Now().Add(b.stall + time.Duration(b.left)*time.Second/time.Duration(b.w.minRate))
		b.w.control.SetReadDeadline(until)
		b.w.control.SetWriteDeadline(until.Add(b.stall)) // over HTTP/2, a stream that has no time to write ends
	}
	if b.interrupted.Load() {
		return 0, errInterrupted
	}
	n, err := b.body.Read(p[:min(len(p), b.left)])
	b.left, b.more = b.left-n, b.more-int64(n)
	b.w.received += int64(n)
	if err != nil && b.interrupted.Load() {
		err = errInterrupted
	}
	return n, err
}

// interrupt ends the reading.
func (b *inflow) interrupt() {
	b.interrupted.Store(true)
	b.w.control.SetReadDeadline(time.Unix(1, 0))
}

// because is fail that says why.
func because(w http.ResponseWriter, code int, why string) {
	why = strings.Join(strings.FieldsFunc(why, func(r rune) bool { return r < ' ' }), "; ")
	http.Error(w, fmt.Sprintf("%d %s: %s", code, http.StatusText(code), why), code)
}

// failWrite answers to a writer why it could not be done.
func (s *Server) failWrite(w *answer, r *http.Request, err error) {
	w.problem = err
	w.extend(0)
	goOn := errors.Is(err, upload.ErrOffset) || errors.Is(err, upload.ErrOrder) || errors.Is(err, errInterrupted)
	if w.Header().Del(repo.UploadComplete); goOn { // who looks how far it is can go on
		w.Header().Set(repo.UploadComplete, "?0")
	}
	for _, c := range []struct {
		is   error
		code int
	}{
		{upload.ErrOffset, http.StatusConflict}, {upload.ErrOrder, http.StatusConflict}, {errInterrupted, http.StatusConflict},
		{repo.ErrConflict, http.StatusConflict}, {upload.ErrDamaged, http.StatusUnprocessableEntity},
		{upload.ErrTooLarge, http.StatusRequestEntityTooLarge}, {upload.ErrNoRoom, http.StatusInsufficientStorage},
		{os.ErrDeadlineExceeded, http.StatusRequestTimeout}, {io.ErrUnexpectedEOF, http.StatusBadRequest},
		{repo.ErrNotFound, http.StatusNotFound},
	} {
		if errors.Is(err, c.is) {
			because(w, c.code, err.Error())
			return
		}
	}
	switch {
	case errors.Is(err, upload.ErrBusy):
		w.Header().Set("Retry-After", "2")
		because(w, http.StatusServiceUnavailable, err.Error())
	case r.Context().Err() != nil: // hardly anybody listens
		later(w, http.StatusServiceUnavailable)
	default:
		s.config.Log.Error(fmt.Sprintf("a package cannot be taken: %v", err))
		later(w, http.StatusServiceUnavailable)
	}
}
