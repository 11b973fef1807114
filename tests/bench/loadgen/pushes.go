package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// crowd is streams of ADS that acknowledge all they are told, and how many messages a change is to bring them.
type crowd struct {
	ready   sync.WaitGroup
	lost    atomic.Pointer[error]
	told    atomic.Int64 // messages since the first of each stream
	bytes   atomic.Int64
	awaited atomic.Int64 // when so many messages are acknowledged, somebody is told
	done    chan time.Time
}

// subscribe runs one stream: its request, and an acknowledgement for each message. Acknowledgements are the request again,
// with version and nonce for the state of the world; of incremental xDS the type alone, which is what `ack` has.
func (c *crowd) subscribe(ctx context.Context, conn *grpc.ClientConn, method string, request, ack []byte) {
	var once sync.Once
	ready := func() { once.Do(c.ready.Done) }
	stream, err := conn.NewStream(ctx, streamBoth, method)
	if err == nil {
		err = stream.SendMsg(request)
	}
	for first := true; err == nil; first = false {
		var reply []byte
		err = stream.RecvMsg(func(data []byte) {
			nonce := textOf(data, nonceField)
			if ack != nil {
				reply = acknowledge(ack, nonce)
			} else {
				reply = acknowledgeState(request, textOf(data, versionField), nonce)
			}
			c.bytes.Add(int64(len(data)))
		})
		if err == nil {
			err = stream.SendMsg(reply)
		}
		if first {
			ready()
		} else if err == nil && c.told.Add(1) == c.awaited.Load() {
			c.done <- time.Now()
		}
	}
	if ctx.Err() == nil {
		c.lost.CompareAndSwap(nil, &err)
		ready()
	}
}

func (c *crowd) err() error {
	if lost := c.lost.Load(); lost != nil {
		return fmt.Errorf("a stream was lost: %w", *lost)
	}
	return nil
}

// gather opens the streams, each with the request whose turn it is, and waits until each has its first message.
func gather(ctx context.Context, o *options, conns []*grpc.ClientConn) (*crowd, error) {
	requests, err := readBodies(o.watchBodies)
	if err != nil {
		return nil, err
	}
	var ack []byte
	if o.ack != "" {
		acks, err := readBodies(o.ack)
		if err != nil {
			return nil, err
		}
		ack = acks[0]
	}
	c := &crowd{done: make(chan time.Time, 1)}
	c.ready.Add(o.watchers)
	for i := range o.watchers {
		go c.subscribe(ctx, conns[i%len(conns)], o.watchMethod, requests[i%len(requests)], ack)
		if i%50 == 49 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	all := make(chan struct{})
	go func() { c.ready.Wait(); close(all) }()
	select {
	case <-all:
		return c, c.err()
	case <-time.After(3 * patience):
		return nil, fmt.Errorf("not every stream got its first message within %v", 3*patience)
	}
}

// pushes makes one change after the other and takes the time until the last of the messages that it brings is
// acknowledged. Those that come beyond what is expected are counted.
func pushes(ctx context.Context, o *options) (result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bodies, conns, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	streams, err := dial(o.address, max(1, o.watchConns))
	if err != nil {
		return nil, err
	}
	defer closeAll(streams)
	c, err := gather(ctx, o, streams)
	if err != nil {
		return nil, err
	}
	c.bytes.Store(0)
	before := processorMs(o.pid)
	took := []time.Duration{}
	for round := range o.rounds {
		one, err := c.round(ctx, o, conns[0], bodies[round%len(bodies)])
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", round, err)
		}
		took = append(took, one)
		time.Sleep(5*time.Millisecond + 2*one) // an idle server, not a busy one that rests
	}
	time.Sleep(100 * time.Millisecond)
	cpu := (processorMs(o.pid) - before) / float64(o.rounds)
	beyond := c.told.Load() - int64(o.rounds*o.expected)
	took = took[min(len(took)-1, o.rounds/10):]
	slices.Sort(took)
	return result{"rounds": len(took), "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99),
		"cpu_ms": cpu, "beyond": beyond, "bytes": c.bytes.Load() / int64(o.rounds)}, c.err()
}

func (c *crowd) round(ctx context.Context, o *options, conn *grpc.ClientConn, body []byte) (time.Duration, error) {
	c.awaited.Store(c.told.Load() + int64(o.expected))
	began := time.Now()
	if err := conn.Invoke(ctx, o.method, body, ignore); err != nil {
		return 0, err
	}
	select {
	case at := <-c.done:
		return at.Sub(began), c.err()
	case <-time.After(patience):
		return 0, fmt.Errorf("%d messages are missing after %v", c.awaited.Load()-c.told.Load(), patience)
	}
}

// processorMs is the processor time that a process has used, as Linux tells it; 0 where it does not.
func processorMs(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(data), ") ")
	var state string
	var skipped, user, system int64
	fmt.Sscan(after, &state, &skipped, &skipped, &skipped, &skipped, &skipped, &skipped, &skipped, &skipped, &skipped,
		&skipped, &user, &system)
	return float64(user+system) * 10
}
