package ingest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"auditdb/internal/fault"
)

// Reject is a record that was not taken.
type Reject struct {
	Source  string // the source's name
	Record  int64  // from 1
	Offset  int64  // of its first byte in the decompressed content
	Reason  string // never holds the record's values
	Raw     []byte // the record; of an oversize one its beginning
	Cut     bool   // Raw is only its beginning: the record is over MaxRecord
	Skipped bool   // the file ended in the middle of it: the next run looks at it again
}

// rejectLine is a line of the rejects file.
type rejectLine struct {
	Source string `json:"source"`
	Record int64  `json:"record"`
	Offset int64  `json:"offset"`
	Reason string `json:"reason"`
	Raw    string `json:"raw_base64"`
	Cut    bool   `json:"truncated,omitempty"` // raw_base64 has the first bytes only
}

// RejectFile is a file of rejected records, one JSON object a line. Lines that are there from an earlier run are not written again.
type RejectFile struct {
	mu    sync.Mutex
	f     *os.File
	known []uint64 // digests of the lines that were there, ascending
	dirty bool
}

// OpenRejects opens or makes a rejects file with mode 0600; a file that others may read is refused. A last line that a crash cut off is
// removed. A file that is one of the sources, or that holds anything but rejects, is refused untouched, with class usage.
func OpenRejects(path string, sources ...Source) (*RejectFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "open the rejects file: %w", err)
	}
	r := &RejectFile{f: f}
	if err := r.load(sources); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return r, nil
}

func (r *RejectFile) load(sources []Source) error {
	info, err := r.f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("look at the rejects file: %w", err)
	case info.Mode().IsRegular() && isSource(info, sources):
		return fault.New(fault.Usage, "give --rejects a file of its own, outside of what is read", "rejects file %s: it is one of the sources", r.f.Name())
	case info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0:
		return fault.New(fault.Usage, "chmod 600 "+r.f.Name(), "rejects file %s: others may read it, and it holds events", r.f.Name())
	case !info.Mode().IsRegular():
		return nil // a pipe or a device
	}
	if err := r.checkOurs(); err != nil {
		return err
	}
	br := bufio.NewReaderSize(r.f, 64<<10)
	var end int64
	for {
		sum, n, complete, err := digestLine(br)
		if err != nil {
			return fmt.Errorf("read the rejects file: %w", err)
		}
		if !complete {
			break
		}
		end += n
		r.known = append(r.known, sum)
	}
	slices.Sort(r.known)
	if err := r.f.Truncate(end); err != nil {
		return fmt.Errorf("cut the rejects file after its last whole line: %w", err)
	}
	return nil
}

// isSource tells whether a file is one of the sources, by whatever path.
func isSource(file os.FileInfo, sources []Source) bool {
	return slices.ContainsFunc(sources, func(s Source) bool {
		var info os.FileInfo
		var err error
		if f, ok := s.In.(*os.File); ok && s.Path == "" {
			info, err = f.Stat()
		} else {
			info, err = os.Stat(s.Path)
		}
		return err == nil && os.SameFile(file, info)
	})
}

const (
	maxRejectLine = 2 * MaxRecord // of base64, with what goes with it
	rejectBegins  = `{"source":`
)

// checkOurs refuses a file whose first line is no reject, so that nobody else's file is written to or cut.
func (r *RejectFile) checkOurs() error {
	line, err := bufio.NewReader(io.LimitReader(r.f, maxRejectLine)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the rejects file: %w", err)
	}
	whole := err == nil
	if len(line) > 0 && (!bytes.HasPrefix(line, []byte(rejectBegins)) || len(line) == maxRejectLine || whole && !isReject(line)) {
		return fault.New(fault.Usage, "give --rejects a new file, or one that an earlier run has made", "rejects file %s: its content is not rejected records", r.f.Name())
	}
	if _, err := r.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the rejects file: %w", err)
	}
	return nil
}

func isReject(line []byte) bool {
	var keys map[string]json.RawMessage
	if json.Unmarshal(line, &keys) != nil {
		return false
	}
	for _, key := range []string{"source", "record", "reason", "raw_base64"} {
		if _, ok := keys[key]; !ok {
			return false
		}
	}
	return true
}

// digestLine reads a line of any length; complete is false at the end of the file.
func digestLine(br *bufio.Reader) (sum uint64, n int64, complete bool, err error) {
	h := sha256.New()
	for {
		part, err := br.ReadSlice('\n')
		n += int64(len(part))
		h.Write(bytes.TrimSuffix(part, []byte{'\n'}))
		switch {
		case err == nil:
			return binary.BigEndian.Uint64(h.Sum(nil)), n, true, nil
		case errors.Is(err, io.EOF):
			return 0, 0, false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return 0, 0, false, err
		}
	}
}

// write appends rejects and waits until they are on disk.
func (r *RejectFile) write(rejects []Reject) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var buf bytes.Buffer
	for i := range rejects {
		if err := r.line(&buf, &rejects[i]); err != nil {
			return err
		}
		if buf.Len() > keepScratch {
			if err := r.flush(&buf); err != nil {
				return err
			}
		}
	}
	if err := r.flush(&buf); err != nil {
		return err
	}
	if !r.dirty {
		return nil
	}
	if err := r.f.Sync(); err != nil && !errors.Is(err, os.ErrInvalid) && !isNoSync(err) {
		return fmt.Errorf("sync the rejects file: %w", err)
	}
	r.dirty = false
	return nil
}

func (r *RejectFile) line(buf *bytes.Buffer, j *Reject) error {
	text, err := json.Marshal(rejectLine{Source: j.Source, Record: j.Record, Offset: j.Offset, Reason: j.Reason, Raw: base64.StdEncoding.EncodeToString(j.Raw), Cut: j.Cut})
	if err != nil {
		return fmt.Errorf("write a reject: %w", err)
	}
	sum := sha256.Sum256(text)
	if _, ok := slices.BinarySearch(r.known, binary.BigEndian.Uint64(sum[:])); ok {
		return nil
	}
	buf.Write(text)
	buf.WriteByte('\n')
	return nil
}

func (r *RejectFile) flush(buf *bytes.Buffer) error {
	if buf.Len() == 0 {
		return nil
	}
	r.dirty = true
	if _, err := r.f.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("write the rejects file: %w", err)
	}
	buf.Reset()
	return nil
}

// is tells whether info is that of the file; of no file it is not.
func (r *RejectFile) is(info os.FileInfo) bool {
	if r == nil {
		return false
	}
	own, err := r.f.Stat()
	return err == nil && os.SameFile(own, info)
}

// Close closes the file.
func (r *RejectFile) Close() error { return r.f.Close() }

// limitError ends a run: a record was one too many to reject.
type limitError struct {
	limit int64
	first Reject // the first beyond the limit
}

// Error names that record.
func (e *limitError) Error() string {
	record := fmt.Sprintf("%s: record %d (byte %d): %s", e.first.Source, e.first.Record, e.first.Offset, e.first.Reason)
	if e.limit == 0 {
		return record
	}
	return fmt.Sprintf("the limit of %d rejected records (--max-rejects) is reached, the next one: %s", e.limit, record)
}

// Unwrap gives the class and the hint.
func (e *limitError) Unwrap() error {
	hint := "--rejects FILE puts bad records aside, --max-rejects N allows for some"
	if e.limit > 0 {
		hint = "look at what was rejected; --rejects FILE alone allows for any number, --max-rejects N for more"
	}
	return fault.New(fault.Data, hint, "too many bad records")
}
