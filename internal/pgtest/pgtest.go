// Package pgtest is a PostgreSQL server for tests, with databases of their own.
package pgtest

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"prestage/internal/testenv"
)

// Password is the password of the server's user.
const Password = "s3cret&more"

// A Server is a PostgreSQL server that ends with the test.
type Server struct {
	dir    string // its socket's
	bin    string
	data   string
	run    *exec.Cmd
	log    *os.File
	number atomic.Int64
}

// programs finds PostgreSQL's programs, which Debian keeps out of the PATH.
func programs() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

// Start starts a server. Who is root has an ordinary user run it, because it would
// not run as root.
func Start(t testing.TB) *Server {
	t.Helper()
	return start(t, t.Cleanup)
}

// Shared is a server for all tests of a package, which starts when the first of them
// needs it.
type Shared struct {
	server *Server
	ends   []func()
}

// Get returns the server.
func (s *Shared) Get(t testing.TB) *Server {
	t.Helper()
	if s.server == nil {
		s.server = start(t, func(end func()) { s.ends = append(s.ends, end) })
	}
	return s.server
}

// End ends the server. TestMain calls it after the tests.
func (s *Shared) End() {
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

func start(t testing.TB, cleanup func(func())) *Server {
	t.Helper()
	s := &Server{bin: programs()}
	if s.bin == "" {
		testenv.Need(t, "initdb")
		s.bin = filepath.Dir(must(testenv.Look("initdb"))(t))
	}
	// Its socket's path must be short, and the folder its own user's.
	s.dir = must(os.MkdirTemp("", "pg"))(t)
	cleanup(func() { os.RemoveAll(s.dir) })
	s.data = filepath.Join(s.dir, "data")
	pass := filepath.Join(s.dir, "password")
	check(t, os.WriteFile(pass, []byte(Password+"\n"), 0o644))
	check(t, own(s.dir))
	if out, err := s.command("initdb", "--no-sync", "--username=tester", "--auth=scram-sha-256", "--pwfile="+pass, "--encoding=UTF8", "--locale=C", s.data).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.log = must(os.Create(filepath.Join(s.dir, "log")))(t)
	cleanup(func() { s.log.Close() })
	s.Up(t)
	cleanup(func() { s.Down() })
	return s
}

// command makes a command of the server's user.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	asOrdinary(cmd)
	return cmd
}

// Up starts the server that Down has stopped.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	s.run = s.command("postgres", "-D", s.data, "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40", "-c", "shared_buffers=16MB")
	s.run.Stdout, s.run.Stderr = s.log, s.log
	check(t, s.run.Start())
	db := must(sql.Open("pgx", s.url("postgres", Password)))(t)
	defer db.Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := db.Ping()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(s.log.Name())
			t.Fatalf("PostgreSQL does not answer: %v\n%s", err, bytes.TrimSpace(said))
		}
	}
}

// Down stops the server, and cuts those who are connected.
func (s *Server) Down() {
	if s.run == nil {
		return
	}
	s.run.Process.Signal(os.Interrupt)
	s.run.Wait()
	s.run = nil
}

// Database makes an empty database, and returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	db := must(sql.Open("pgx", s.url("postgres", Password)))(t)
	defer db.Close()
	name := "events" + strconv.FormatInt(s.number.Add(1), 10)
	must(db.Exec("CREATE DATABASE " + name))(t)
	return s.url(name, Password)
}

// WithPassword returns a URL with another password.
func (s *Server) WithPassword(t testing.TB, of, password string) string {
	t.Helper()
	u := must(url.Parse(of))(t)
	return s.url(filepath.Base(u.Path), password)
}

func (s *Server) url(database, password string) string {
	u := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	u.User = url.User("tester")
	if password != "" {
		u.User = url.UserPassword("tester", password)
	}
	// A URL without a host needs one for its user: that of the query counts.
	return fmt.Sprintf("postgres://%s@/%s?%s", u.User, database, u.RawQuery)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}
