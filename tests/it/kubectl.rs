//! Unmodified kubectl against the cluster, where one is installed ($KUBECTL, or on the path): every verb
//! of the README, through the common address and through each master.

use crate::cluster::{Cluster, IMAGE, deployment, wanted};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use testkit::skip;

/// A second name for the image of the tests, to roll out to.
const OTHER_IMAGE: &str = "registry.local/busybox:2";
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> String {
    std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into())
}

/// The words of a command line; single quotes hold a word together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// A ConfigMap of a set that is pruned.
fn in_set(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: tour}}}}\n")
}

struct Tour<'a> {
    cluster: &'a Cluster,
    context: &'static str,
}

impl Tour<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("--kubeconfig").arg(self.cluster.dir.join("kubeconfig")).args(["--context", self.context]);
        // What it remembers of one cluster must not reach another at the same address.
        command.arg("--cache-dir").arg(self.cluster.dir.join("kubectl-cache")).args(words(line));
        command.stdin(Stdio::null());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("kubectl runs")
    }

    fn text(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn at(&self, line: &str) -> String {
        format!("{}: kubectl {line}", self.context)
    }

    /// Runs what must work.
    fn ok(&self, line: &str) -> String {
        let output = self.output(line);
        let text = Tour::text(&output);
        assert!(output.status.success(), "{}: {text}", self.at(line));
        text
    }

    /// Runs what must work and say `what`.
    fn says(&self, line: &str, what: &str) {
        let text = self.ok(line);
        assert!(text.contains(what), "{} does not say {what:?}: {text}", self.at(line));
    }

    /// Runs what must be refused, with this reason.
    fn fails(&self, line: &str, why: &str) {
        let output = self.output(line);
        let text = Tour::text(&output);
        assert!(
            !output.status.success() && text.contains(why),
            "{} is not refused with {why:?}: {text}",
            self.at(line)
        );
    }

    /// Starts what goes on, and ends it once it has said `until`; `meanwhile` makes it say so.
    fn follows(&self, line: &str, until: &str, meanwhile: impl FnOnce()) {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = child.stdout.take().expect("it was piped");
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        meanwhile();
        let (started, mut told) = (Instant::now(), String::new());
        while !told.contains(until) {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let line_told = lines.recv_timeout(left);
            told += &line_told.unwrap_or_else(|_| panic!("{} never said {until:?}: {told}", self.at(line)));
        }
        child.kill().expect("it goes on until it is ended");
        child.wait().expect("it was spawned here");
        reader.join().expect("it reads to the end");
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.cluster.dir.join(name);
        std::fs::write(&path, text).expect("the folder is there");
        path
    }

    fn rolled_out(&self) {
        self.says("rollout status deployment/web --timeout=60s", "successfully rolled out");
    }

    // ---- the stations ----

    fn applies_and_shows(&self) {
        let manifest = self.write("web.yaml", &deployment("web", 2, ""));
        let manifest = manifest.display();
        self.says(&format!("apply -f {manifest}"), "created");
        self.says(&format!("apply -f {manifest}"), "unchanged");
        self.rolled_out();
        self.says("wait --for=condition=Available deployment/web --timeout=30s", "condition met");
        self.says(&format!("diff -f {manifest}"), "");
        let grown = self.write("web3.yaml", &deployment("web", 3, ""));
        let differs = self.output(&format!("diff -f {}", grown.display()));
        assert!(differs.status.code() == Some(1) && Tour::text(&differs).contains("+  replicas: 3"), "{differs:?}");
        self.fails(&format!("apply --server-side -f {manifest}"), "Server-side apply not available on the server");

        self.says("get deployments", "2/2");
        self.says("get deployment web -o yaml", "kind: Deployment");
        self.says("get deployment web -o json", "\"kind\": \"Deployment\"");
        self.says("get deployment web -o wide", IMAGE);
        self.says("get deployment web -o name", "deployment.apps/web");
        self.says("get deployment web --subresource=status", "2/2");
        self.says("get deployment web --subresource=scale", "DESIRED");
        self.says(&format!("get -f {manifest}"), "2/2");
        self.says(&format!("apply --dry-run=server -f {}", grown.display()), "configured (server dry run)");
        self.says("get deployment web -o jsonpath={.status.readyReplicas}", "2");
        self.says("get pods -A -o wide", "worker-");
        self.says("get pods -l app=web --field-selector=status.phase=Running", "1/1");
        self.says("get pods --sort-by=.metadata.name -o custom-columns=N:.metadata.name,ON:.spec.nodeName", "worker-");
        self.says("get all", "replicaset.apps/web-");
        self.says("get events", "ScalingReplicaSet");
        self.says("events --for deployment/web", "ScalingReplicaSet");
        self.says("get events.events.k8s.io", "ScalingReplicaSet");
        self.says("get --raw /readyz", "ok");
        self.says("describe deployment web", "ScalingReplicaSet");
        self.says("describe pods -l app=web", "Started");
        self.says("describe node worker-1", "Allocatable");
        self.says("describe namespace default", "Active");
        self.fails("get configmap none", "not found");
        self.fails("get widgets", "the server doesn't have a resource type \"widgets\"");
    }

    fn changes(&self) {
        self.ok("scale deployment/web --replicas=3");
        self.ok(&format!("set image deployment/web c={OTHER_IMAGE}"));
        self.rolled_out();
        self.says("get pods -l app=web -o jsonpath={.items[*].spec.containers[0].image}", OTHER_IMAGE);
        self.says("rollout history deployment/web", "2");
        self.says("rollout history deployment/web --revision=2", OTHER_IMAGE);
        self.ok("rollout undo deployment/web");
        self.rolled_out();
        self.says("get deployment web -o wide", IMAGE);
        self.ok("rollout restart deployment/web");
        self.rolled_out();
        self.ok("rollout pause deployment/web");
        self.ok(&format!("set image deployment/web c={OTHER_IMAGE}"));
        self.says("get deployment web -o jsonpath={.spec.paused}", "true");
        self.fails("rollout restart deployment/web", "paused");
        self.ok("rollout resume deployment/web");
        self.rolled_out();

        self.ok("label deployment/web tier=front");
        self.says("get deployments -l tier=front", "web");
        self.ok("label deployment/web tier-");
        self.ok("annotate deployment/web note=x");
        self.says("get deployment web -o jsonpath={.metadata.annotations.note}", "x");
        self.ok("patch deployment web -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"env\":[{\"name\":\"A\",\"value\":\"b\"}]}]}}}}'");
        self.says("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", OTHER_IMAGE);
        self.rolled_out();
        self.fails("patch deployment web -p '{\"spec\":{\"replicas\":\"many\"}}'", "spec.replicas");
        self.fails(
            "patch deployment web -p '{\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}}}}'",
            "spec.selector",
        );
    }

    fn creates_and_replaces(&self) {
        self.says("create configmap made --from-literal=a=b", "created");
        self.fails("create configmap made", "already exists");
        self.ok("patch configmap made --type=merge -p '{\"data\":{\"c\":\"d\"}}'");
        self.ok("patch configmap made --type=json -p '[{\"op\":\"add\",\"path\":\"/data/e\",\"value\":\"f\"}]'");
        self.says("get configmap made -o jsonpath={.data}", r#"{"a":"b","c":"d","e":"f"}"#);
        let stored = self.ok("get configmap made -o yaml");
        let path = self.write("made.yaml", &stored.replace("a: b", "a: z"));
        self.says(&format!("replace -f {}", path.display()), "replaced");
        self.says("get configmap made -o jsonpath={.data.a}", "z");
        self.fails(&format!("replace -f {}", path.display()), "the object has been modified");
        self.says(&format!("replace --force -f {}", path.display()), "replaced");

        let edited = self.command("edit configmap made").env("KUBE_EDITOR", "sed -i s/a:.z/a:v/").output().unwrap();
        assert!(!edited.status.success(), "that is no YAML map: {}", Tour::text(&edited));
        let edited = self.command("edit configmap made").env("KUBE_EDITOR", "sed -i s/z/v/").output().unwrap();
        assert!(edited.status.success() && Tour::text(&edited).contains("edited"), "{}", Tour::text(&edited));
        self.says("get configmap made -o jsonpath={.data.a}", "v");

        self.ok("create secret generic made --from-literal=a=b");
        self.says("get secret made -o jsonpath={.data.a}", "Yg==");
        self.ok("create serviceaccount made");
        self.ok("create namespace made");
        self.ok("create priorityclass made --value=7");
        self.ok("create role made --verb=get --resource=pods");
        self.ok("create rolebinding made --role=made --user=somebody");
        // Ends when told to: a drain waits for what is still leaving.
        let script = "trap exit TERM; sleep 1000 & wait";
        self.ok(&format!("create deployment made --image={IMAGE} --replicas=1 -- sh -c '{script}'"));
        self.says("auth can-i get pods --as=somebody", "yes");
        self.fails("auth can-i delete pods --as=somebody", "no");
        self.says("auth can-i --list --as=somebody", "pods");
        self.says("auth whoami", "admin");
        self.fails("delete pod none --as=somebody", "cannot delete resource \"pods\"");
        self.fails("expose deployment web --port=80", "services are not supported by this version");
        self.fails("create token made", "tokens of service accounts are not supported by this version");
        self.fails("create service clusterip made --tcp=80", "services are not supported by this version");
        self.fails("create job made --image=x", "this version serves no jobs.batch");
        self.fails("autoscale deployment web --max=5", "autoscaling");
        self.fails("top nodes", "Metrics API not available");
        self.follows("get configmaps --watch", "seen", || {
            // The watch is there once it shows what was there before; what comes now is news either way.
            self.ok("create configmap seen");
        });
        let both = self.write("both.yaml", &format!("{}---\n{}", in_set("one"), in_set("two")));
        let one = self.write("one.yaml", &in_set("one"));
        let prune = "--prune -l set=tour --prune-allowlist=core/v1/ConfigMap";
        self.ok(&format!("apply {prune} -f {}", both.display()));
        self.says(&format!("apply {prune} -f {}", one.display()), "configmap/two pruned");
        self.write("kustomization.yaml", "namePrefix: k-\nresources: [one.yaml]\n");
        self.says(&format!("apply -k {}", self.cluster.dir.display()), "configmap/k-one created");
        self.ok("delete configmap -l set=tour");
        self.ok("delete configmap/made configmap/seen secret/made serviceaccount/made role/made rolebinding/made");
        self.ok("delete deployment made --wait");
        self.ok("delete namespace made priorityclass made --ignore-not-found --wait=false");
        self.ok("delete priorityclass made");
        self.ok("wait --for=delete namespace/made --timeout=30s");
    }

    fn looks_into_pods(&self) {
        let script = "for i in 1 2 3; do echo tick $i; sleep 1; done; sleep 1000";
        self.says(&format!("run talker --image={IMAGE} --restart=Never --command -- sh -c '{script}'"), "created");
        self.ok("wait --for=condition=Ready pod/talker --timeout=60s");
        self.follows("logs -f talker", "tick 3", || {});
        self.says("logs talker --tail=1", "tick 3");
        self.says("logs talker --timestamps", "Z tick 1");
        self.says("logs -l run=talker --all-containers --prefix --tail=1", "[pod/talker/talker] tick 3");
        self.says("logs talker --since-time=2020-01-01T00:00:00Z --limit-bytes=6", "tick 1");
        self.fails("logs talker --previous", "previous terminated container");
        self.says("exec talker -- sh -c 'echo $((6*7))'", "42");
        assert_eq!(self.output("exec talker -- sh -c 'exit 7'").status.code(), Some(7));
        let mut cat = self.command("exec -i talker -- cat");
        let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through and back").unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, b"through and back");
        self.fails("exec talker -c none -- true", "none");
        self.fails("attach talker", "attaching to containers is not supported by this version");
        self.fails("port-forward talker 18080:80", "forwarding ports of pods is not supported by this version");
        self.fails("debug talker --image=x", "ephemeral containers are not supported by this version");
        self.ok("wait --for=jsonpath={.status.phase}=Running pod/talker --timeout=5s");
        self.fails("logs talker -c none", "none");
        self.ok("delete pod talker --grace-period=0 --force");
        self.ok("wait --for=delete pod/talker --timeout=30s");
    }

    /// A drain by somebody who may evict pods but not delete them.
    fn cordons_and_drains(&self) {
        let on_first = || self.ok("get pods -l app=web --field-selector=spec.nodeName=worker-1 -o name");
        self.ok("cordon worker-1");
        self.says("get nodes", "SchedulingDisabled");
        self.fails("auth can-i delete pods --as=drainer", "no");
        self.says("drain worker-1 --as=drainer --ignore-daemonsets --force --timeout=60s", "drained");
        assert_eq!(on_first(), "");
        self.rolled_out();
        self.ok("uncordon worker-1");
        self.ok("taint nodes worker-1 a=b:NoSchedule");
        self.says("describe node worker-1", "a=b:NoSchedule");
        self.fails("taint nodes worker-1 a=b:Never", "effect");
        self.ok("taint nodes worker-1 a:NoSchedule-");
        self.says("get node worker-1 -o jsonpath={.spec.taints}{.spec.unschedulable}", "");
    }

    fn asks_about_the_cluster(&self) {
        self.says("api-resources", "deployments");
        self.says("api-versions", "apps/v1");
        self.says("cluster-info", "is running at");
        self.says("version", "Server Version: v1.36");
        self.says("explain pod.spec.containers.livenessProbe", "FIELD: livenessProbe <Probe>");
        self.says("explain deployment.spec.strategy --recursive", "maxSurge");
        assert!(!self.ok("explain pod").contains("-required-"), "no field of a pod itself is required");
    }

    fn leaves(&self) {
        self.ok("delete deployment web --cascade=foreground --timeout=60s");
        self.says("get pods,replicasets,deployments", "No resources found");
    }
}

#[test]
fn a_tour_of_verbs_through_the_common_address_and_each_master() {
    const TEST: &str = "a_tour_of_verbs_through_the_common_address_and_each_master";
    if !wanted(TEST) {
        return;
    }
    if Command::new(program()).args(["version", "--client"]).output().is_err() {
        return skip(TEST, "install kubectl, or name one in KUBECTL");
    }
    let cluster = Cluster::up();
    if cluster.runtime() == "containerd" {
        cluster.dev(&["image", OTHER_IMAGE, "/bin/busybox"]);
    }
    let first = Tour { cluster: &cluster, context: "balsa" };
    first.ok("create clusterrole drainer --verb=get,list,patch --resource=nodes,pods");
    first.ok("create clusterrole evictor --verb=create --resource=pods/eviction");
    first.ok("create clusterrolebinding drainer --clusterrole=drainer --user=drainer");
    first.ok("create clusterrolebinding evictor --clusterrole=evictor --user=drainer");
    for context in ["balsa", "master-1", "master-2", "master-3"] {
        let tour = Tour { cluster: &cluster, context };
        tour.applies_and_shows();
        tour.changes();
        tour.creates_and_replaces();
        tour.looks_into_pods();
        tour.cordons_and_drains();
        tour.asks_about_the_cluster();
        tour.leaves();
    }
}
