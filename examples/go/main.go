// A Balsa client in Go: create, patch with conflict, retry, observe containers, watch across a leader kill.
//
//	./stubs.sh && go run . KUBECONFIG [IMAGE]
//
// Everything goes through gRPC with the kubeconfig's certificate.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"example/gen/cluster"
	"example/gen/objects"
	"example/gen/observe"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// Balsa is the servers of a kubeconfig.
type Balsa struct {
	servers []string
	conns   map[string]*grpc.ClientConn
	run     string // marks what this run makes
}

func connect(path string) *Balsa {
	text, err := os.ReadFile(path)
	check(err)
	// Balsa writes JSON, which is YAML too. Go decodes base64 into []byte by itself.
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			}
		}
	}
	check(json.Unmarshal(text, &config))
	user := config.Users[0].User
	pair, err := tls.X509KeyPair(user.Certificate, user.Key)
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.Clusters[0].Cluster.CA)
	transport := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots})
	// A dead server is tried again soon, not after gRPC's default of up to two minutes.
	soon := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, MaxDelay: 500 * time.Millisecond}}
	balsa := &Balsa{conns: map[string]*grpc.ClientConn{}, run: fmt.Sprintf("example-%x", time.Now().UnixNano())}
	for _, entry := range config.Clusters {
		server := strings.TrimPrefix(entry.Cluster.Server, "https://")
		conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(transport), grpc.WithConnectParams(soon))
		check(err)
		balsa.servers = append(balsa.servers, server)
		balsa.conns[server] = conn
	}
	return balsa
}

// Nothing was applied and another master may serve; or nobody knows. Both are retried, writes under the
// same request id.
func transient(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// call asks the first server that answers; goes on with the next, and again, for 20 seconds.
func call[Answer any](balsa *Balsa, attempt func(context.Context, grpc.ClientConnInterface) (Answer, error)) (Answer, error) {
	ends := time.Now().Add(20 * time.Second)
	for {
		for _, server := range balsa.servers {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			answer, err := attempt(ctx, balsa.conns[server])
			cancel()
			if err == nil || !transient(err) || time.Now().After(ends) {
				return answer, err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func key(resource, name string) *objects.Key {
	return &objects.Key{Resource: resource, Namespace: "default", Name: name}
}

// object is a Kubernetes object as far as this program needs one.
type object struct {
	Metadata metadata          `json:"metadata"`
	Data     map[string]string `json:"data,omitempty"`
	Spec     map[string]any    `json:"spec,omitempty"`
}

type metadata struct {
	Name            string            `json:"name,omitempty"`
	GenerateName    string            `json:"generateName,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
}

func (balsa *Balsa) meta(name string) metadata {
	return metadata{Name: name, Labels: map[string]string{"run": balsa.run}}
}

func (balsa *Balsa) create(resource string, body object, requestID string) (*objects.Object, error) {
	request := &objects.WriteRequest{Key: key(resource, ""), Json: encode(body), RequestId: requestID}
	return call(balsa, func(ctx context.Context, conn grpc.ClientConnInterface) (*objects.Object, error) {
		return objects.NewObjectsClient(conn).Create(ctx, request)
	})
}

func (balsa *Balsa) configMaps() *objects.ListResponse {
	request := &objects.ListRequest{Key: key("configmaps", ""), LabelSelector: "run=" + balsa.run}
	return must(call(balsa, func(ctx context.Context, conn grpc.ClientConnInterface) (*objects.ListResponse, error) {
		return objects.NewObjectsClient(conn).List(ctx, request)
	}))
}

func createAndPatchWithConflict(balsa *Balsa) {
	name := balsa.run
	first := must(balsa.create("configmaps", object{Metadata: balsa.meta(name), Data: map[string]string{"colour": "red"}}, name))
	fmt.Printf("created configmap/%s at revision %d\n", name, first.Revision)
	patch := func(colour string, revision uint64) (*objects.Object, error) {
		change := object{Metadata: metadata{ResourceVersion: fmt.Sprint(revision)}, Data: map[string]string{"colour": colour}}
		request := &objects.PatchRequest{Key: key("configmaps", name), Patch: encode(change), RequestId: name + "-" + colour}
		return call(balsa, func(ctx context.Context, conn grpc.ClientConnInterface) (*objects.Object, error) {
			return objects.NewObjectsClient(conn).Patch(ctx, request)
		})
	}
	must(patch("green", first.Revision))
	_, err := patch("blue", first.Revision)
	ensure(status.Code(err) == codes.Aborted, "a patch of an old revision: %v", err)
	reason := ""
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.Reason
		}
	}
	fmt.Printf("patch of revision %d refused (%s): %s\n", first.Revision, reason, status.Convert(err).Message())
	// The way out of a conflict: read what is there, decide again.
	present := must(call(balsa, func(ctx context.Context, conn grpc.ClientConnInterface) (*objects.Object, error) {
		return objects.NewObjectsClient(conn).Get(ctx, &objects.GetRequest{Key: key("configmaps", name)})
	}))
	third := must(patch("blue", present.Revision))
	fmt.Printf("patched at revision %d after reading again\n", third.Revision)
}

// A name is drawn by the server, so that applying twice would show: as a second object.
func retryOfAnUnknownOutcome(balsa *Balsa) {
	body := object{Metadata: balsa.meta("")}
	body.Metadata.GenerateName = balsa.run + "-drawn-"
	id := balsa.run + "-retry"
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	first := objects.NewObjectsClient(balsa.conns[balsa.servers[0]])
	if _, err := first.Create(ctx, &objects.WriteRequest{Key: key("configmaps", ""), Json: encode(body), RequestId: id}); err != nil {
		fmt.Printf("the outcome of the first attempt is unknown: %s\n", status.Code(err))
	} else {
		fmt.Println("the first attempt was answered even within a millisecond")
	}
	one, two := must(balsa.create("configmaps", body, id)), must(balsa.create("configmaps", body, id))
	ensure(string(one.Json) == string(two.Json), "the retry was answered with something else")
	var drawn []string
	for _, item := range balsa.configMaps().Items {
		if name := nameOf(item); strings.Contains(name, "drawn-") {
			drawn = append(drawn, name)
		}
	}
	ensure(len(drawn) == 1, "applied more than once: %v", drawn)
	fmt.Printf("applied once: %s\n", drawn[0])
}

func observeContainers(balsa *Balsa, image string) {
	container := map[string]any{"name": "main", "image": image, "command": []string{"sh", "-c", "sleep 1; exit 3"}}
	spec := map[string]any{"restartPolicy": "Never", "containers": []any{container}}
	must(balsa.create("pods", object{Metadata: balsa.meta(balsa.run), Spec: spec}, balsa.run))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request := &observe.ContainersRequest{Namespace: "default", LabelSelector: "run=" + balsa.run}
	for try := 0; ; try++ {
		server := balsa.servers[try%len(balsa.servers)]
		code, err := followContainers(ctx, balsa.conns[server], request)
		if err == nil {
			ensure(code == 3, "the command ends with 3")
			return
		}
		if !transient(err) || ctx.Err() != nil {
			log.Fatal(err)
		}
		fmt.Println("the stream of container status broke; resuming")
		time.Sleep(50 * time.Millisecond)
	}
}

// followContainers tells of containers until one has terminated; returns its exit code.
func followContainers(ctx context.Context, conn grpc.ClientConnInterface, request *observe.ContainersRequest) (int32, error) {
	events, err := observe.NewObserveClient(conn).Containers(ctx, request)
	if err != nil {
		return 0, err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return 0, err
		}
		for _, container := range event.Containers {
			node := container.Node
			if node == "" {
				node = "no node yet"
			}
			at := fmt.Sprintf("container %s/%s on %s:", container.Pod, container.Name, node)
			switch state := container.State.(type) {
			case *observe.Container_Waiting:
				fmt.Println(strings.TrimSpace(fmt.Sprint(at, " waiting ", state.Waiting.Reason)))
			case *observe.Container_Running:
				fmt.Println(at, "running")
			case *observe.Container_Terminated:
				fmt.Println(at, "terminated with exit code", state.Terminated.ExitCode)
				return state.Terminated.ExitCode, nil
			}
		}
		// A stream that breaks is resumed here, at any master.
		request.AfterRevision = event.Revision
	}
}

// watcher follows this run's ConfigMaps; it begins at the first server and resumes by revision at the others.
type watcher struct {
	sync.Mutex
	names   []string
	after   uint64
	resumed int
	refused error
}

func (w *watcher) keepWatching(balsa *Balsa, servers []string) {
	for {
		for _, server := range servers {
			// OUT_OF_RANGE would mean: list, and watch from there.
			if err := w.follow(balsa, server); !transient(err) {
				w.Lock()
				w.refused = err
				w.Unlock()
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (w *watcher) follow(balsa *Balsa, server string) error {
	w.Lock()
	request := &objects.WatchRequest{Key: key("configmaps", ""), LabelSelector: "run=" + balsa.run, AfterRevision: w.after}
	w.Unlock()
	events, err := objects.NewObjectsClient(balsa.conns[server]).Watch(context.Background(), request)
	for heard := false; err == nil; heard = true {
		var event *objects.WatchEvent
		if event, err = events.Recv(); err != nil {
			break
		}
		w.Lock()
		// The first message says from where: now the watch has really been resumed.
		if !heard && len(w.names) > 0 {
			w.resumed++
		}
		w.after = event.Object.Revision
		if event.Type == objects.WatchEvent_ADDED {
			w.names = append(w.names, nameOf(event.Object))
		}
		w.Unlock()
	}
	return err
}

func (w *watcher) state() (seen, resumed int, refused error) {
	w.Lock()
	defer w.Unlock()
	return len(w.names), w.resumed, w.refused
}

func watchAcrossALeaderKill(balsa *Balsa) {
	told := must(call(balsa, func(ctx context.Context, conn grpc.ClientConnInterface) (*cluster.StatusResponse, error) {
		return cluster.NewClusterClient(conn).Status(ctx, &cluster.StatusRequest{})
	}))
	leader := told.Members[slices.IndexFunc(told.Members, func(m *cluster.Member) bool { return m.Leader })]
	w := &watcher{after: balsa.configMaps().Revision}
	go w.keepWatching(balsa, append([]string{leader.ApiAddr}, balsa.servers...))
	var written []string
	asked, ends := false, time.Now().Add(time.Minute)
	for left := 50; left > 0 && time.Now().Before(ends); { // left: writes after the watch has moved
		seen, resumed, refused := w.state()
		check(refused)
		if !asked && seen >= 20 {
			fmt.Printf("writing, and watching at the leader; now kill it: balsa dev kill %s\n", leader.Name)
			asked = true
		}
		if resumed > 0 {
			left--
		}
		name := fmt.Sprintf("%s-%05d", balsa.run, len(written))
		must(balsa.create("configmaps", object{Metadata: balsa.meta(name)}, name))
		written = append(written, name)
		time.Sleep(5 * time.Millisecond)
	}
	for time.Now().Before(ends) {
		if seen, _, refused := w.state(); seen >= len(written) || refused != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, resumed, refused := w.state()
	check(refused)
	ensure(resumed > 0, "nobody killed the leader")
	w.Lock()
	defer w.Unlock()
	ensure(slices.Equal(w.names, written), "the watch differs from what was written")
	fmt.Printf("%d writes, each seen once and in order; the watch was resumed %d time(s)\n", len(written), resumed)
}

func encode(body object) []byte {
	return must(json.Marshal(body))
}

func nameOf(item *objects.Object) string {
	var found object
	check(json.Unmarshal(item.Json, &found))
	return found.Metadata.Name
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[Value any](value Value, err error) Value {
	check(err)
	return value
}

func ensure(holds bool, why string, about ...any) {
	if !holds {
		log.Fatalf(why, about...)
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 || len(os.Args) > 3 {
		log.Fatal("usage: go run . KUBECONFIG [IMAGE]")
	}
	image := "registry.local/busybox:1"
	if len(os.Args) == 3 {
		image = os.Args[2]
	}
	balsa := connect(os.Args[1])
	createAndPatchWithConflict(balsa)
	retryOfAnUnknownOutcome(balsa)
	observeContainers(balsa, image)
	watchAcrossALeaderKill(balsa)
	fmt.Println("done")
}
