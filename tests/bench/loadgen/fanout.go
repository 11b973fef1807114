package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

const (
	markerHead   = "~fan="
	instanceAt   = len(markerHead)
	sequenceAt   = instanceAt + 6 + 1
	stampAt      = sequenceAt + 9 + 1
	markerLength = stampAt + 19 + 1
	patience     = 20 * time.Second
)

// stamp writes instance, sequence number and time into the marker of a body.
func stamp(body []byte, at, instance, sequence int, now int64) {
	digits(body[at+instanceAt:at+instanceAt+6], int64(instance))
	digits(body[at+sequenceAt:at+sequenceAt+9], int64(sequence))
	digits(body[at+stampAt:at+stampAt+19], now)
}

func digits(field []byte, n int64) {
	for i := len(field) - 1; i >= 0; i, n = i-1, n/10 {
		field[i] = byte('0' + n%10)
	}
}

func number(field []byte) (n int64) {
	for _, c := range field {
		n = n*10 + int64(c-'0')
	}
	return n
}

// ages is a histogram with buckets 2 % apart, from 1 µs.
type ages [1200]uint32

func (a *ages) add(nanos int64) {
	at := 0
	if nanos > 1000 {
		at = min(len(a)-1, int(math.Log(float64(nanos)/1000)/math.Log(1.02)))
	}
	a[at]++
}

func (a *ages) percentileMs(p float64) float64 {
	var total, seen uint64
	for _, n := range a {
		total += uint64(n)
	}
	for at, n := range a {
		if seen += uint64(n); total > 0 && float64(seen) >= p*float64(total) {
			return math.Pow(1.02, float64(at)+0.5) / 1000
		}
	}
	return 0
}

// watcher is one stream that watches, and what it has seen.
type watcher struct {
	fleet    *fleet
	ready    sync.Once
	newest   []atomic.Int32 // by instance: the newest sequence number seen
	messages int64
	items    int64
	bytes    int64
	ages     ages
	nonce    []byte // of the latest message, where watchers acknowledge
}

// fleet is all watchers, and who waits for what they see.
type fleet struct {
	watchers []*watcher
	conns    []*grpc.ClientConn
	ack      []byte // what a watcher acknowledges by, but for the nonce; nil where nobody does
	began    int64
	ready    sync.WaitGroup
	lost     atomic.Pointer[error]
	awaited  atomic.Int64 // the sequence number that a round waits for
	missing  atomic.Int64 // how many watchers have not seen it
	done     chan time.Time
	cancel   context.CancelFunc
}

func (w *watcher) scan(data []byte) {
	now := time.Now().UnixNano()
	w.messages++
	w.bytes += int64(len(data))
	if w.fleet.ack != nil {
		w.nonce = nonceOf(data, w.nonce[:0])
	}
	for {
		at := bytes.Index(data, []byte(markerHead))
		if at < 0 || len(data) < at+markerLength {
			break
		}
		w.saw(data[at:at+markerLength], now)
		data = data[at+markerLength:]
	}
	w.ready.Do(w.fleet.ready.Done)
}

func (w *watcher) saw(marker []byte, now int64) {
	sequence, stamped := number(marker[sequenceAt:sequenceAt+9]), number(marker[stampAt:stampAt+19])
	if stamped < w.fleet.began { // what was there before
		return
	}
	instance := number(marker[instanceAt : instanceAt+6])
	w.items++
	w.ages.add(now - stamped)
	if int32(sequence) > w.newest[instance].Load() {
		w.newest[instance].Store(int32(sequence))
		if sequence == w.fleet.awaited.Load() && w.fleet.missing.Add(-1) == 0 {
			w.fleet.done <- time.Now()
		}
	}
}

func watchAll(ctx context.Context, o *options) (*fleet, error) {
	request, err := readBodies(o.watchBodies)
	if err != nil {
		return nil, err
	}
	f := &fleet{began: time.Now().UnixNano(), done: make(chan time.Time, 1)}
	ctx, f.cancel = context.WithCancel(ctx)
	if o.watchConns == 0 {
		o.watchConns = o.watchers
	}
	if f.conns, err = dial(o.address, o.watchConns); err != nil {
		return nil, err
	}
	if o.ack != "" {
		acks, err := readBodies(o.ack)
		if err != nil {
			return nil, err
		}
		f.ack = acks[0]
	}
	f.ready.Add(o.watchers)
	for i := range o.watchers {
		w := &watcher{fleet: f, newest: make([]atomic.Int32, o.instances)}
		f.watchers = append(f.watchers, w)
		go w.run(ctx, f.conns[i%len(f.conns)], o.watchMethod, request[0])
		if i%50 == 49 { // a server has a bounded queue of connections to accept
			time.Sleep(20 * time.Millisecond)
		}
	}
	return f, f.waitReady()
}

func (w *watcher) run(ctx context.Context, conn *grpc.ClientConn, method string, request []byte) {
	stream, err := conn.NewStream(ctx, streamBoth, method)
	if err == nil {
		// The request side stays open: etcd ends a watch when it closes, and others do not mind.
		err = stream.SendMsg(request)
	}
	for err == nil {
		err = stream.RecvMsg(w.scan)
		if err == nil && w.fleet.ack != nil {
			err = stream.SendMsg(acknowledge(w.fleet.ack, w.nonce))
		}
	}
	if ctx.Err() == nil {
		w.fleet.lost.CompareAndSwap(nil, &err)
		w.ready.Do(w.fleet.ready.Done)
	}
}

func (f *fleet) waitReady() error {
	ready := make(chan struct{})
	go func() { f.ready.Wait(); close(ready) }()
	select {
	case <-ready:
		return f.err()
	case <-time.After(3 * patience):
		return fmt.Errorf("not every watcher got its first message within %v", 3*patience)
	}
}

func (f *fleet) err() error {
	if lost := f.lost.Load(); lost != nil {
		return fmt.Errorf("a watcher was lost: %w", *lost)
	}
	return nil
}

func (f *fleet) close() {
	f.cancel()
	closeAll(f.conns)
}

// last makes one change after the other and takes the time until the last watcher has seen it.
func last(ctx context.Context, o *options) (result, error) {
	bodies, conns, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	f, err := watchAll(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.close()
	took := []time.Duration{}
	for round := 1; round <= o.rounds; round++ {
		one, err := f.round(ctx, conns[0], o.method, bodies[0], round)
		if err != nil {
			return nil, err
		}
		took = append(took, one)
		time.Sleep(5 * time.Millisecond) // an idle registry, not a busy one
	}
	took = took[min(len(took)-1, o.rounds/10):] // the first ones warm up
	slices.Sort(took)
	return result{"rounds": len(took), "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}, nil
}

func (f *fleet) round(ctx context.Context, conn *grpc.ClientConn, method string, template []byte, round int) (time.Duration, error) {
	f.missing.Store(int64(len(f.watchers)))
	f.awaited.Store(int64(round))
	body := slices.Clone(template)
	began := time.Now()
	stamp(body, bytes.Index(body, []byte(markerHead)), 0, round, began.UnixNano())
	if err := conn.Invoke(ctx, method, body, ignore); err != nil {
		return 0, err
	}
	select {
	case at := <-f.done:
		return at.Sub(began), f.err()
	case <-time.After(patience):
		return 0, fmt.Errorf("round %d: %d watchers had not seen it after %v", round, f.missing.Load(), patience)
	}
}

// writers offer changes at a steady rate, whether or not the server keeps up, round all instances. Each has instances of
// its own: two changes of one instance are never under way together, so the last that was taken is the newest.
type writers struct {
	accepted atomic.Int64
	failed   atomic.Int64
	first    atomic.Pointer[error]
	newest   []atomic.Int32
	began    time.Time
}

func (w *writers) run(ctx context.Context, conn *grpc.ClientConn, o *options, bodies [][]byte, first, step int) {
	until, instance := w.began.Add(seconds(o.seconds)), first
	for sequence := first + 1; ; sequence += step {
		due := w.began.Add(seconds(float64(sequence) / o.rate))
		if due.After(until) {
			return
		}
		time.Sleep(time.Until(due))
		if time.Now().After(until) {
			return
		}
		w.write(ctx, conn, o.method, slices.Clone(bodies[instance]), sequence, instance)
		if instance += step; instance >= len(bodies) {
			instance = first
		}
	}
}

func (w *writers) write(ctx context.Context, conn *grpc.ClientConn, method string, body []byte, sequence, instance int) {
	stamp(body, bytes.Index(body, []byte(markerHead)), instance, sequence, time.Now().UnixNano())
	if err := conn.Invoke(ctx, method, body, ignore); err != nil {
		w.failed.Add(1)
		w.first.CompareAndSwap(nil, &err)
		return
	}
	w.accepted.Add(1)
	for old := w.newest[instance].Load(); int32(sequence) > old; old = w.newest[instance].Load() {
		if w.newest[instance].CompareAndSwap(old, int32(sequence)) {
			return
		}
	}
}

// sustained offers changes at a steady rate for a while; then every watcher must come to hold the newest of each instance.
func sustained(ctx context.Context, o *options) (result, error) {
	bodies, conns, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	o.instances = len(bodies)
	f, err := watchAll(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.close()
	w := &writers{newest: make([]atomic.Int32, len(bodies)), began: time.Now()}
	var group sync.WaitGroup
	many := min(o.concurrency, len(bodies))
	for i := range many {
		group.Go(func() { w.run(ctx, conns[i%len(conns)], o, bodies, i, many) })
	}
	group.Wait()
	ended := time.Now()
	conveyed := f.settle(w)
	return w.result(o, f, ended, conveyed), f.err()
}

// settle waits until everybody holds the newest, and tells which share of them does.
func (f *fleet) settle(w *writers) float64 {
	deadline := time.Now().Add(patience)
	for {
		behind := 0
		for _, watcher := range f.watchers {
			for i := range w.newest {
				if watcher.newest[i].Load() < w.newest[i].Load() {
					behind++
				}
			}
		}
		if behind == 0 || time.Now().After(deadline) {
			return 1 - float64(behind)/float64(len(f.watchers)*len(w.newest))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *writers) result(o *options, f *fleet, ended time.Time, conveyed float64) result {
	var all ages
	var messages, items, size int64
	for _, one := range f.watchers {
		messages, items, size = messages+one.messages, items+one.items, size+one.bytes
		for at, n := range one.ages {
			all[at] += n
		}
	}
	took := ended.Sub(w.began).Seconds()
	answer := result{"offered_per_second": o.rate, "accepted": w.accepted.Load(), "failed": w.failed.Load(),
		"accepted_per_second": float64(w.accepted.Load()) / took, "conveyed": conveyed,
		"age_p50_ms": all.percentileMs(0.5), "age_p99_ms": all.percentileMs(0.99),
		"messages": messages, "items": items, "bytes": size, "seconds": took,
		"settled_s": time.Since(ended).Seconds()}
	if err := w.first.Load(); err != nil {
		answer["error"] = (*err).Error()
	}
	return answer
}

// idle opens the watchers, says so, and holds them until its stdin ends.
func idle(ctx context.Context, o *options) (result, error) {
	f, err := watchAll(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.close()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return result{"watchers": o.watchers}, err
}
