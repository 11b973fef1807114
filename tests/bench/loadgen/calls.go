package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// tally collects what many callers measured.
type tally struct {
	mu        sync.Mutex
	latencies []time.Duration
	failed    int
	first     error
}

func (t *tally) add(latencies []time.Duration, failed int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies = append(t.latencies, latencies...)
	t.failed += failed
	if t.first == nil {
		t.first = err
	}
}

func (t *tally) result(took time.Duration) result {
	slices.Sort(t.latencies)
	answer := result{"calls": len(t.latencies), "failed": t.failed, "seconds": took.Seconds(),
		"per_second": float64(len(t.latencies)) / took.Seconds(),
		"p50_ms":     percentile(t.latencies, 0.50), "p99_ms": percentile(t.latencies, 0.99)}
	if t.first != nil {
		answer["error"] = t.first.Error()
	}
	return answer
}

func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(float64(len(sorted)-1)*p)]) / 1e6
}

// unary calls a method for a while, each caller as fast as it is answered. Every body is used once before any is again.
func unary(ctx context.Context, o *options) (result, error) {
	bodies, conns, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	var next atomic.Int64
	return drive(o, func(i int, until time.Time) ([]time.Duration, int, error) {
		conn, latencies, failed := conns[i%len(conns)], []time.Duration{}, 0
		var first error
		for time.Now().Before(until) {
			turn := int(next.Add(1) - 1)
			if turn >= o.calls {
				break
			}
			body := bodies[turn%len(bodies)]
			began := time.Now()
			if err := conn.Invoke(ctx, o.method, body, ignore); err != nil {
				failed, first = failed+1, err
				continue
			}
			latencies = append(latencies, time.Since(began))
		}
		return latencies, failed, first
	})
}

// pingpong sends one message at a time on each of many streams and waits for its answer.
func pingpong(ctx context.Context, o *options) (result, error) {
	bodies, conns, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	return drive(o, func(i int, until time.Time) ([]time.Duration, int, error) {
		stream, err := conns[i%len(conns)].NewStream(ctx, streamBoth, o.method)
		if err != nil {
			return nil, 1, err
		}
		defer stream.CloseSend()
		return volley(o, stream, bodies, i, until)
	})
}

// volley sends the bodies that are this stream's, in turn: of n streams every nth.
func volley(o *options, stream grpc.ClientStream, bodies [][]byte, at int, until time.Time) ([]time.Duration, int, error) {
	latencies := []time.Duration{}
	due := time.Now()
	if o.pace > 0 {
		due = due.Add(seconds(float64(at) / o.pace))
	}
	for ; time.Now().Before(until); at += o.concurrency {
		if o.pace > 0 {
			time.Sleep(time.Until(due))
			due = due.Add(seconds(float64(o.concurrency) / o.pace))
		}
		began := time.Now()
		if err := stream.SendMsg(bodies[at%len(bodies)]); err != nil {
			return latencies, 1, err
		}
		if err := stream.RecvMsg(ignore); err != nil {
			return latencies, 1, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, 0, nil
}

func prepare(o *options) ([][]byte, []*grpc.ClientConn, error) {
	bodies, err := readBodies(o.bodies)
	if err != nil {
		return nil, nil, err
	}
	conns, err := dial(o.address, o.conns)
	return bodies, conns, err
}

// drive runs the callers side by side. Connections are made by the first calls, before the time that counts.
func drive(o *options, caller func(int, time.Time) ([]time.Duration, int, error)) (result, error) {
	var total tally
	var group sync.WaitGroup
	began := time.Now()
	until := began.Add(seconds(o.seconds))
	for i := range o.concurrency {
		group.Go(func() {
			latencies, failed, err := caller(i, until)
			total.add(latencies, failed, err)
		})
	}
	group.Wait()
	return total.result(time.Since(began)), nil
}
