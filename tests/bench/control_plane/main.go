// Command control_plane serves endpoints by go-control-plane, as one who knows it well would have it: a linear cache with
// a resource for each instance or for each service, as those who change it say, told by EDS and by ADS of both kinds. What
// changes while the cache tells its watchers is given to it together, when it is done, and whoever changes something is
// answered before it is told: so many changes cost it little.
//
// It prints the port that it listens on.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"sync"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	ads "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	eds "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// changes is what the cache was not yet given.
type changes struct {
	mu      sync.Mutex
	pending map[string]types.Resource
	wake    chan struct{}
}

func (c *changes) add(one *endpoint.ClusterLoadAssignment) {
	c.mu.Lock()
	c.pending[one.GetClusterName()] = one
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) take() map[string]types.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.pending
	c.pending = map[string]types.Resource{}
	return taken
}

func (c *changes) giveTo(to *cache.LinearCache) {
	for range c.wake {
		if err := to.UpdateResources(c.take(), nil); err != nil {
			log.Fatal(err)
		}
	}
}

func change(service any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	one := &endpoint.ClusterLoadAssignment{}
	if err := decode(one); err != nil {
		return nil, err
	}
	service.(*changes).add(one)
	return &emptypb.Empty{}, nil
}

var changing = grpc.ServiceDesc{
	ServiceName: "peer.Peer",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Change", Handler: change}},
}

func main() {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	instances := cache.NewLinearCache(resource.EndpointType)
	waiting := &changes{pending: map[string]types.Resource{}, wake: make(chan struct{}, 1)}
	go waiting.giveTo(instances)
	serving := grpc.NewServer()
	serving.RegisterService(&changing, waiting)
	planes := server.NewServer(context.Background(), instances, nil)
	eds.RegisterEndpointDiscoveryServiceServer(serving, planes)
	ads.RegisterAggregatedDiscoveryServiceServer(serving, planes)
	fmt.Println("listening on", port.Addr())
	if err := serving.Serve(port); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
