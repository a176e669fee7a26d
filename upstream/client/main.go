// client is a load for as long as a file is there, with no retry of its own. On
// a cluster's API by unmodified client-go: reads, writes and a watch; what fails
// is what client-go returns an error for. Or on a URL: requests on connections
// of their own. It prints one JSON object at its end.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Every worker asks once in this time.
	period = time.Second
	// How often the file is looked for.
	lookEvery = 100 * time.Millisecond
	// How long the watch may take to show the last write.
	catchUp = 30 * time.Second
	// A URL that is not read by then has failed.
	getLimit = 10 * time.Second
	// Failures that are told; all are counted.
	mostTold = 20
	counter  = "counter"
	label    = "cofferdam-load"
)

type failure struct {
	At      float64 `json:"at"`
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error"`
}

type result struct {
	Reads        int       `json:"reads"`
	Writes       int       `json:"writes"`
	Failed       int       `json:"failed"`
	Failures     []failure `json:"failures"`
	LongestRead  float64   `json:"longest_read"`
	LongestWrite float64   `json:"longest_write"`
	// Ends of the watch, each of which was taken up where it was.
	WatchEnds int `json:"watch_ends"`
	// How often the watch's revision was too old for the server, as it is for
	// one that has just begun, and the objects were listed anew.
	Lists int `json:"lists"`
	// Acknowledged writes that neither the watch nor such a list showed, or a
	// later one of the same object in the list.
	Unseen int `json:"unseen"`
	// Acknowledged writes that were gone at the end.
	Lost int `json:"lost"`
}

type load struct {
	client    kubernetes.Interface
	namespace string
	name      string
	started   time.Time

	lock   sync.Mutex
	result result
	// By object: the counters that were acknowledged, and those that were seen.
	acknowledged map[string]map[int]bool
	seen         map[string]map[int]bool
	// By object: the newest counter of a list.
	listed map[string]int
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig; without, the pod's own access")
	namespace := flag.String("namespace", "default", "namespace of the objects")
	name := flag.String("name", "load", "prefix of the objects' names")
	reads := flag.Int("reads", 10, "reads a second")
	writes := flag.Int("writes", 10, "writes a second")
	file := flag.String("while", "", "file: the load ends once it is gone")
	url := flag.String("get", "", "URL to read instead of the API")
	flag.Parse()
	if *url != "" {
		get(*url, *reads, *file)
		return
	}
	if err := run(*kubeconfig, *namespace, *name, *reads, *writes, *file); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(kubeconfig, namespace, name string, reads, writes int, file string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	// No limit of the client's own, which would hide stalls.
	config.QPS = -1
	client, err := kubernetes.NewForConfig(rest.CopyConfig(config))
	if err != nil {
		return err
	}
	l := &load{
		client: client, namespace: namespace, name: name, started: time.Now(),
		acknowledged: map[string]map[int]bool{}, seen: map[string]map[int]bool{},
		listed: map[string]int{},
	}
	revision, err := l.prepare(writes)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	watchCtx, stopWatch := context.WithCancel(context.Background())
	var work, watch sync.WaitGroup
	watch.Go(func() { l.watch(watchCtx, revision) })
	for i := range writes {
		work.Go(func() { l.each(ctx, i, writes, func(n int) { l.write(l.object(i), n) }) })
	}
	for i := range reads {
		work.Go(func() { l.each(ctx, i, reads, func(int) { l.read(l.object(i % max(writes, 1))) }) })
	}
	wait(file)
	stop()
	work.Wait()
	l.finish()
	stopWatch()
	watch.Wait()
	return json.NewEncoder(os.Stdout).Encode(l.result)
}

// wait says that all is at work, and waits for the file to be gone.
func wait(file string) {
	fmt.Println("ready")
	for {
		if _, err := os.Stat(file); err != nil {
			return
		}
		time.Sleep(lookEvery)
	}
}

// get reads a URL, each time on a connection of its own.
func get(url string, reads int, file string) {
	l := &load{started: time.Now()}
	client := &http.Client{
		Timeout:   getLimit,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	if err := settle(client, url); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range reads {
		work.Go(func() {
			l.each(ctx, i, reads, func(int) {
				begun := time.Now()
				err := ask(client, url)
				l.noteRead("get", begun, err)
			})
		})
	}
	wait(file)
	stop()
	work.Wait()
	_ = json.NewEncoder(os.Stdout).Encode(l.result)
}

// settle waits until the URL is answered several times on end: a Service that was
// made a moment ago is not known everywhere yet.
func settle(client *http.Client, url string) error {
	deadline := time.Now().Add(catchUp)
	for answers := 0; answers < 10; answers++ {
		if err := ask(client, url); err != nil {
			if time.Now().After(deadline) {
				return err
			}
			answers = -1
			time.Sleep(lookEvery)
		}
	}
	return nil
}

func ask(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", answer.Status)
	}
	return nil
}

func (l *load) object(i int) string { return fmt.Sprintf("%s-%d", l.name, i) }

// prepare makes the objects and returns the revision to watch from.
func (l *load) prepare(writes int) (string, error) {
	revision := "0"
	for i := range max(writes, 1) {
		object := &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Name: l.object(i), Labels: map[string]string{label: l.name},
			},
			Data: map[string]string{counter: "0"},
		}
		made, err := l.client.CoreV1().ConfigMaps(l.namespace).Create(
			context.Background(), object, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		revision = made.ResourceVersion
	}
	return revision, nil
}

// each calls once a period, spread over it, with 1, 2, 3 …
func (l *load) each(ctx context.Context, i, of int, call func(int)) {
	first := time.Duration(i) * period / time.Duration(of)
	tick := time.NewTimer(first)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next := time.Now().Add(period)
		call(n)
		tick.Reset(time.Until(next))
	}
}

func (l *load) read(object string) {
	begun := time.Now()
	_, err := l.client.CoreV1().ConfigMaps(l.namespace).Get(
		context.Background(), object, metav1.GetOptions{})
	l.noteRead("read "+object, begun, err)
}

func (l *load) noteRead(what string, begun time.Time, err error) {
	seconds := time.Since(begun).Seconds()
	l.lock.Lock()
	defer l.lock.Unlock()
	l.result.Reads++
	l.result.LongestRead = max(l.result.LongestRead, seconds)
	l.note(what, begun, seconds, err)
}

func (l *load) write(object string, n int) {
	patch := fmt.Sprintf(`{"data":{%q:"%d"}}`, counter, n)
	begun := time.Now()
	_, err := l.client.CoreV1().ConfigMaps(l.namespace).Patch(
		context.Background(), object, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	seconds := time.Since(begun).Seconds()
	l.lock.Lock()
	defer l.lock.Unlock()
	l.result.Writes++
	l.result.LongestWrite = max(l.result.LongestWrite, seconds)
	if err == nil {
		mark(l.acknowledged, object, n)
	}
	l.note("write "+object, begun, seconds, err)
}

func (l *load) note(what string, begun time.Time, seconds float64, err error) {
	if err == nil {
		return
	}
	l.result.Failed++
	if len(l.result.Failures) < mostTold {
		at := begun.Sub(l.started).Seconds()
		l.result.Failures = append(l.result.Failures, failure{at, what, seconds, err.Error()})
	}
}

// watch goes on from its last revision whenever it ends, or from a list where
// that revision is too old, as client-go's own reflector does.
func (l *load) watch(ctx context.Context, revision string) {
	for ctx.Err() == nil {
		err := l.watchFrom(ctx, &revision)
		if err != nil && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)) {
			err = l.list(ctx, &revision)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.lock.Lock()
			l.note("watch", time.Now(), 0, err)
			l.lock.Unlock()
			time.Sleep(lookEvery)
		}
	}
}

// watchFrom watches until the watch ends, and leaves the last revision that it
// showed. A status that the server sends as an event is an error.
func (l *load) watchFrom(ctx context.Context, revision *string) error {
	watcher, err := l.client.CoreV1().ConfigMaps(l.namespace).Watch(ctx, metav1.ListOptions{
		LabelSelector: label + "=" + l.name, ResourceVersion: *revision,
		AllowWatchBookmarks: true,
	})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*v1.ConfigMap)
		if !ok {
			err = apierrors.FromObject(event.Object)
			break
		}
		*revision = object.ResourceVersion
		if n, err := strconv.Atoi(object.Data[counter]); err == nil {
			l.lock.Lock()
			mark(l.seen, object.Name, n)
			l.lock.Unlock()
		}
	}
	if ctx.Err() == nil {
		l.lock.Lock()
		l.result.WatchEnds++
		l.lock.Unlock()
	}
	return err
}

// list leaves the revision of a list of the objects, and what it showed.
func (l *load) list(ctx context.Context, revision *string) error {
	found, err := l.client.CoreV1().ConfigMaps(l.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: label + "=" + l.name,
	})
	if err != nil {
		return err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.result.Lists++
	for _, object := range found.Items {
		if n, err := strconv.Atoi(object.Data[counter]); err == nil {
			l.listed[object.Name] = max(l.listed[object.Name], n)
		}
	}
	*revision = found.ResourceVersion
	return nil
}

// finish waits for the watch to show everything, and reads the objects once
// more: none may be behind its last acknowledged write.
func (l *load) finish() {
	deadline := time.Now().Add(catchUp)
	for l.unseen() > 0 && time.Now().Before(deadline) {
		time.Sleep(lookEvery)
	}
	unseen := l.unseen()
	lost := 0
	for object, counters := range l.acknowledged {
		last := 0
		for n := range counters {
			last = max(last, n)
		}
		found, err := l.client.CoreV1().ConfigMaps(l.namespace).Get(
			context.Background(), object, metav1.GetOptions{})
		if err != nil {
			lost++
			continue
		}
		if n, err := strconv.Atoi(found.Data[counter]); err != nil || n < last {
			lost++
		}
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.result.Unseen, l.result.Lost = unseen, lost
}

func (l *load) unseen() int {
	l.lock.Lock()
	defer l.lock.Unlock()
	count := 0
	for object, counters := range l.acknowledged {
		for n := range counters {
			if !l.seen[object][n] && n > l.listed[object] {
				count++
			}
		}
	}
	return count
}

func mark(counters map[string]map[int]bool, object string, n int) {
	if counters[object] == nil {
		counters[object] = map[int]bool{}
	}
	counters[object][n] = true
}
