// Command loadgen puts load on a gRPC server without knowing its messages: bodies come from a file that the harness
// writes, and answers are never parsed. So the client side costs little, and the server is what gets measured.
//
// A change carries a marker of fixed width, which survives any encoding and is found by scanning the raw bytes:
//
//	~fan=IIIIII;SSSSSSSSS;NNNNNNNNNNNNNNNNNNN;     instance, sequence number, nanoseconds
//
// Commands: unary, posts, pingpong, last, sustained, idle, pushes. Each prints one JSON object.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

type options struct {
	address, method, bodies      string
	watchMethod, watchBodies     string
	ack                          string
	concurrency, conns, watchers int
	instances, rounds, calls     int
	watchConns, expected, pid    int
	seconds, rate, pace          float64
}

// result is what a command prints.
type result map[string]any

var commands = map[string]func(context.Context, *options) (result, error){
	"unary":     unary,
	"posts":     posts,
	"pingpong":  pingpong,
	"last":      last,
	"sustained": sustained,
	"idle":      idle,
	"pushes":    pushes,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: loadgen unary|posts|pingpong|last|sustained|idle|pushes FLAGS")
		os.Exit(2)
	}
	answer, err := commands[os.Args[1]](context.Background(), parse(os.Args[2:]))
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(answer)
}

func parse(args []string) *options {
	o := &options{}
	f := flag.NewFlagSet("loadgen", flag.ExitOnError)
	f.StringVar(&o.address, "address", "", "HOST:PORT of the server")
	f.StringVar(&o.method, "method", "", "full name of the method that is called, or that changes something")
	f.StringVar(&o.bodies, "bodies", "", "file of request bodies, each after its length in four bytes, used in turn")
	f.StringVar(&o.watchMethod, "watch-method", "", "full name of the method that watches")
	f.StringVar(&o.watchBodies, "watch-bodies", "", "file with the request that starts a watch; of several each watcher has the next (pushes)")
	f.IntVar(&o.concurrency, "concurrency", 32, "calls, or streams, at a time")
	f.IntVar(&o.conns, "conns", 4, "connections they share")
	f.IntVar(&o.watchers, "watchers", 1, "streams that watch")
	f.IntVar(&o.watchConns, "watch-conns", 0, "connections that they share, 0 for one each")
	f.StringVar(&o.ack, "ack", "", "file with the message by which a watcher acknowledges what came, but for the nonce (incremental xDS)")
	f.IntVar(&o.instances, "instances", 1, "how many instances the changes go round")
	f.IntVar(&o.rounds, "rounds", 100, "changes, one after the other (last)")
	f.IntVar(&o.calls, "calls", math.MaxInt, "at most so many (unary)")
	f.IntVar(&o.expected, "expected", 1, "how many messages a change brings to all streams together (pushes)")
	f.IntVar(&o.pid, "pid", 0, "process of the server, whose processor time is taken (pushes)")
	f.Float64Var(&o.seconds, "seconds", 3, "how long")
	f.Float64Var(&o.pace, "pace", 0, "messages per second on all streams together, 0 for as fast as they are answered (pingpong)")
	f.Float64Var(&o.rate, "rate", 1000, "changes offered per second (sustained)")
	f.Parse(args)
	return o
}

// raw is a codec that moves bytes: it sends a []byte as it is, and hands what arrives to a func([]byte), whose argument is
// valid during the call only.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	v.(func([]byte))(buffer.ReadOnlyData())
	return nil
}

func ignore([]byte) {}

func dial(address string, n int) ([]*grpc.ClientConn, error) {
	conns := make([]*grpc.ClientConn, n)
	for i := range conns {
		conn, err := grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.WaitForReady(true)),
		)
		if err != nil {
			return nil, err
		}
		conns[i] = conn
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, conn := range conns {
		conn.Close()
	}
}

func readBodies(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader, bodies := bufio.NewReader(file), [][]byte{}
	for {
		var length uint32
		if err := binary.Read(reader, binary.BigEndian, &length); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(reader, body); err != nil {
			return nil, err
		}
		bodies = append(bodies, body)
	}
	if len(bodies) == 0 {
		return nil, fmt.Errorf("%s: no bodies", path)
	}
	return bodies, nil
}

var streamBoth = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
