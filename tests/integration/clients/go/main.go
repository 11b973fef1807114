// A client in Go, as its users have it: grpc-go, and stubs of protoc-gen-go-grpc. What it does: README.md beside.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "grpc-registry.test/client/registry/v1"
)

const (
	callTime  = 30 * time.Second
	shortTime = 300 * time.Millisecond
)

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// As it is called everywhere but in Go.
func name(err error) string {
	return code.Code_name[int32(status.Code(err))]
}

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	run(ctx, pb.NewRegistryClient(connection), os.Args[2])
}

func run(ctx context.Context, registry pb.RegistryClient, namespace string) {
	key := &pb.InstanceKey{Namespace: namespace, Service: "player", Id: "one"}
	lease := register(ctx, registry, key)
	keepAlive(ctx, registry, lease)
	watch, err := registry.Watch(ctx, &pb.WatchRequest{Namespace: namespace, Services: []string{"player"}})
	check(err)
	first := next(watch, false)
	fmt.Printf("watch reset %t upserts %d\n", first.Reset_, len(first.Upserts))
	update(ctx, registry, key)
	changed := next(watch, false)
	fmt.Printf("watch reset %t weight %d\n", changed.Reset_, changed.Upserts[0].GetWeight())
	list(ctx, registry, key, changed.Checksum)
	fmt.Printf("watch bookmark %t\n", next(watch, true).Bookmark)
	deadline(ctx, registry, namespace)
	cancelled(ctx, registry, namespace)
	big(ctx, registry)
	refused(ctx, registry, namespace)
	left, err := registry.Deregister(ctx, &pb.DeregisterRequest{LeaseId: lease})
	check(err)
	fmt.Printf("left %d\n", left.Removed)
	gone := next(watch, false).Removed[0]
	fmt.Printf("watch removed %s %s\n", gone.Id, gone.Cause)
	_, err = registry.Get(ctx, &pb.GetRequest{Key: key})
	fmt.Printf("gone %s\n", name(err))
}

// The next step that is a bookmark, or is none: on a machine that is busy one may come between any two.
func next(watch grpc.ServerStreamingClient[pb.WatchResponse], bookmark bool) *pb.WatchResponse {
	for {
		step, err := watch.Recv()
		check(err)
		if step.Bookmark == bookmark {
			return step
		}
	}
}

// The error that a stream ends with.
func end(watch grpc.ServerStreamingClient[pb.WatchResponse]) error {
	for {
		if _, err := watch.Recv(); err != nil {
			return err
		}
	}
}

func register(ctx context.Context, registry pb.RegistryClient, key *pb.InstanceKey) string {
	instance := &pb.Instance{Namespace: key.Namespace, Service: key.Service, Id: key.Id, Host: "10.0.0.5", Port: 8001}
	done, err := registry.Register(ctx, &pb.RegisterRequest{Instance: instance, Ttl: durationpb.New(callTime)})
	check(err)
	fmt.Printf("registered %s ttl %d\n", done.Instance.Id, done.Ttl.Seconds)
	return done.LeaseId
}

// Two requests on one stream, which then ends from this side.
func keepAlive(ctx context.Context, registry pb.RegistryClient, lease string) {
	stream, err := registry.KeepAlive(ctx)
	check(err)
	for _, id := range []string{lease, "nobody"} {
		check(stream.Send(&pb.KeepAliveRequest{LeaseIds: []string{id}}))
		answer, err := stream.Recv()
		check(err)
		fmt.Printf("renewal %s\n", answer.Renewals[0].State)
	}
	check(stream.CloseSend())
	_, err = stream.Recv()
	fmt.Printf("renewals end %t\n", err == io.EOF)
}

// Packed by gzip on its way there.
func update(ctx context.Context, registry pb.RegistryClient, key *pb.InstanceKey) {
	weight := uint32(7)
	instance := &pb.Instance{Namespace: key.Namespace, Service: key.Service, Id: key.Id, Weight: &weight}
	mask := &fieldmaskpb.FieldMask{Paths: []string{"weight"}}
	_, err := registry.Update(ctx, &pb.UpdateRequest{Instance: instance, UpdateMask: mask}, grpc.UseCompressor(gzip.Name))
	check(err)
}

func list(ctx context.Context, registry pb.RegistryClient, key *pb.InstanceKey, checksum uint64) {
	page, err := registry.List(ctx, &pb.ListRequest{Namespace: key.Namespace, Service: key.Service})
	check(err)
	fmt.Printf("listed %d same checksum %t\n", len(page.Instances), page.Checksum == checksum)
}

// A stream that outlasts its deadline.
func deadline(ctx context.Context, registry pb.RegistryClient, namespace string) {
	short, cancel := context.WithTimeout(ctx, shortTime)
	defer cancel()
	watch, err := registry.Watch(short, &pb.WatchRequest{Namespace: namespace, Services: []string{"nobody"}})
	check(err)
	fmt.Printf("deadline %s\n", name(end(watch)))
}

func cancelled(ctx context.Context, registry pb.RegistryClient, namespace string) {
	short, cancel := context.WithCancel(ctx)
	watch, err := registry.Watch(short, &pb.WatchRequest{Namespace: namespace, Services: []string{"nobody"}})
	check(err)
	next(watch, false)
	cancel()
	fmt.Printf("cancelled %s\n", name(end(watch)))
}

// About 900 KB there and more back, and then twice as much as the server takes.
func big(ctx context.Context, registry pb.RegistryClient) {
	for _, length := range []int{90, 120} {
		stream, err := registry.KeepAlive(ctx)
		check(err)
		ids := make([]string, 10_000)
		for at := range ids {
			ids[at] = strings.Repeat("x", length)
		}
		check(stream.Send(&pb.KeepAliveRequest{LeaseIds: ids}))
		answer, err := stream.Recv()
		if err == nil {
			fmt.Printf("big %d %s\n", len(answer.Renewals), answer.Renewals[9_999].State)
			check(stream.CloseSend())
			_, err = stream.Recv()
			continue
		}
		fmt.Printf("too big %s\n", name(err))
	}
}

func refused(ctx context.Context, registry pb.RegistryClient, namespace string) {
	instance := &pb.Instance{Namespace: namespace, Service: "player", Host: "10.0.0.5", Port: 70_000}
	_, err := registry.Register(ctx, &pb.RegisterRequest{Instance: instance})
	request := status.Convert(err).Details()[0].(*errdetails.BadRequest)
	fmt.Printf("refused %s %s\n", name(err), request.FieldViolations[0].Field)
}
