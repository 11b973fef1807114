// grpc-go with its own xDS client. What it does: README.md beside.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	method   = "/registry.test.Backend/Who"
	callTime = 5 * time.Second
	waitTime = 30 * time.Second
	atATime  = 8
)

// What came of some calls.
type tally struct {
	lock    sync.Mutex
	answers map[string]int
	failed  int
	text    string
	last    time.Time
	longest time.Duration
}

func newTally() *tally {
	return &tally{answers: map[string]int{}, last: time.Now()}
}

func (it *tally) add(name string, err error) {
	it.lock.Lock()
	defer it.lock.Unlock()
	if err != nil {
		it.failed++
		it.text = strings.ReplaceAll(err.Error(), "\n", " ")
		return
	}
	it.answers[name]++
	if since := time.Since(it.last); since > it.longest {
		it.longest = since
	}
	it.last = time.Now()
}

func (it *tally) say() {
	it.lock.Lock()
	defer it.lock.Unlock()
	var words []string
	for name, count := range it.answers {
		words = append(words, fmt.Sprintf("%s=%d", name, count))
	}
	fmt.Printf("%s\t%d\t%d\t%s\n", strings.Join(words, " "), it.failed, it.longest.Milliseconds(), it.text)
}

type caller struct{ connection *grpc.ClientConn }

func (it caller) call(within time.Duration, options ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	answer := &wrapperspb.StringValue{}
	err := it.connection.Invoke(ctx, method, &emptypb.Empty{}, answer, options...)
	return answer.Value, err
}

func (it caller) wait() *tally {
	done := newTally()
	done.add(it.call(waitTime, grpc.WaitForReady(true)))
	return done
}

func (it caller) many(count int) *tally {
	done, due := newTally(), make(chan struct{}, count)
	for range count {
		due <- struct{}{}
	}
	close(due)
	var callers sync.WaitGroup
	for range atATime {
		callers.Go(func() {
			for range due {
				done.add(it.call(callTime))
			}
		})
	}
	callers.Wait()
	return done
}

// Calls at a rate, until `ended` is closed; then those are awaited that are under way.
func (it caller) load(rate int, done *tally, ended chan struct{}, over chan struct{}) {
	var callers sync.WaitGroup
	pace := time.NewTicker(time.Second / time.Duration(rate))
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
			callers.Go(func() { done.add(it.call(callTime)) })
		case <-ended:
			callers.Wait()
			close(over)
			return
		}
	}
}

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	it := caller{connection}
	var under *tally
	var ended, over chan struct{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var number int
		words := strings.Fields(lines.Text())
		if len(words) > 1 {
			fmt.Sscan(words[1], &number)
		}
		switch words[0] {
		case "wait":
			it.wait().say()
		case "call":
			it.many(number).say()
		case "load":
			under, ended, over = newTally(), make(chan struct{}), make(chan struct{})
			go it.load(number, under, ended, over)
			newTally().say()
		case "stop":
			close(ended)
			<-over
			under.say()
		}
	}
}
