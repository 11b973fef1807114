package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// posts sends each body as a form to the path that is called the method, for peers whose API is HTTP: each caller on a
// connection of its own, as fast as it is answered. Every body is used once before any is again.
func posts(ctx context.Context, o *options) (result, error) {
	bodies, err := readBodies(o.bodies)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.concurrency}}
	defer client.CloseIdleConnections()
	url := "http://" + o.address + o.method
	var next atomic.Int64
	return drive(o, func(_ int, until time.Time) ([]time.Duration, int, error) {
		latencies, failed := []time.Duration{}, 0
		var first error
		for time.Now().Before(until) {
			body := bodies[int(next.Add(1)-1)%len(bodies)]
			began := time.Now()
			if err := post(ctx, client, url, body); err != nil {
				failed, first = failed+1, err
				continue
			}
			latencies = append(latencies, time.Since(began))
		}
		return latencies, failed, first
	})
}

func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, said)
	}
	return err
}
