//! `rtc inspect` and `rtc diff` on checkpoints that rtc, runc and CRIU itself have made, and a restore that refuses by name
//! what is not as it was written.

use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use serde_json::{Value, json};
use test_fixtures::{Image, Node, NodeConfig, Output, Tree, artifact};

const BUNDLE: &str = "/srv/bundle";
const LONG: Duration = Duration::from_secs(60);

/// A child tree with sessions and a zombie, threads, both ends of a connection, a deleted file, a log.
const SCRIPT: &str = "exec 8>>/log 9>/gone; echo gone >&9; rm /gone; \
    /bin/workload tree --depth 1 --width 1 --sessions yes --zombies yes >/dev/null & \
    /bin/workload threads --count 2 --file /threads & \
    /bin/workload echo --listen 127.0.0.1:7 --ready /ready >/dev/null & \
    until test -s /ready && test -s /threads; do sleep 0.05; done; \
    /bin/workload talk --connect 127.0.0.1:7 --interval-ms 50 >/dev/null & \
    echo up >&8; while :; do sleep 0.2; done";

#[test]
fn what_is_in_a_checkpoint_is_told_and_what_is_damaged_is_refused() {
    if let Some(why) = test_fixtures::skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let node = Node::start(NodeConfig { tree: Tree::Forky, containerd: false, ..NodeConfig::default() }).unwrap();
    prepare(&node);
    start(&node, "rtc", "c1");
    checkpoint(&node, "c1", "/tmp/one", "--leave-running");
    tells_what_is_there(&node);
    of_sealed_ones(&node);
    checkpoint(&node, "c1", "/tmp/two", "--file-locks --checksum-pages");
    tells_the_difference(&node);
    refuses_what_is_damaged(&node);
    shows_damage_and_the_rest(&node);
    restores_and_tells_how_long(&node);
    of_runc(&node);
    of_criu(&node);
}

fn prepare(node: &Node) {
    node.run(["mkdir", "-p", BUNDLE]).unwrap();
    node.unpack(Image::Workload, &format!("{BUNDLE}/rootfs")).unwrap();
    node.copy_in(&artifact::find_static(artifact::WORKLOAD).unwrap(), "/run/workload").unwrap();
    node.run(["rtc", "spec", "-b", BUNDLE]).unwrap();
    let path = format!("{BUNDLE}/config.json");
    let mut spec: Value = serde_json::from_slice(&node.read(&path).unwrap()).unwrap();
    spec["process"]["args"] = json!(["sh", "-c", SCRIPT]);
    spec["process"]["terminal"] = json!(false);
    spec["root"]["readonly"] = json!(false);
    spec["hostname"] = json!("inside");
    node.write(&path, spec.to_string()).unwrap();
    node.sh("mkdir -p /etc/criu; echo network-lock nftables >/etc/criu/runc.conf").unwrap();
}

fn start(node: &Node, runtime: &str, id: &str) {
    let files = ["log", "ready", "threads"].map(|name| format!("{BUNDLE}/rootfs/{name}")).join(" ");
    node.sh(&format!("rm -f {files}; {runtime} run -d -b {BUNDLE} {id} </dev/null >/dev/null 2>&1")).unwrap();
    let since = Instant::now();
    while !node.read_text(&format!("{BUNDLE}/rootfs/log")).is_ok_and(|log| log.contains("up")) {
        assert!(since.elapsed() < LONG, "{runtime}: it does not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Says nothing: standard error is no terminal.
fn checkpoint(node: &Node, id: &str, to: &str, flags: &str) {
    let command = format!("rtc checkpoint --tcp-established --image-path {to} {flags} {id}");
    let made = node.exec_within(LONG, ["sh", "-c", &command]).unwrap();
    assert_eq!((made.code(), made.error_text().as_str(), made.text().as_str()), (0, "", ""));
}

fn inspect(node: &Node, arguments: &[&str]) -> Output {
    node.exec(["rtc", "inspect"].iter().chain(arguments)).unwrap()
}

#[track_caller]
fn json_of(node: &Node, directory: &str) -> Value {
    let output = inspect(node, &["--format", "json", directory]);
    assert_eq!((output.code(), output.error_text().as_str()), (0, ""), "{}", output.text());
    serde_json::from_str(&output.text()).unwrap()
}

fn process<'a>(all: &'a Value, name: &str) -> &'a Value {
    let found =
        all["processes"].as_array().unwrap().iter().find(|process| process["arguments"].to_string().contains(name));
    found.unwrap_or_else(|| panic!("no {name} in {all:#}"))
}

/// Every name of a field is in the page that describes them; options are described elsewhere.
#[track_caller]
fn assert_described(value: &Value) {
    const PAGE: &str = include_str!("../../runtime-core/rtc/INSPECT.md");
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            assert!(PAGE.contains(&format!("`{name}`")), "{name} is not described");
            if name != "options" {
                assert_described(value);
            }
        }),
        Value::Array(values) => values.iter().for_each(assert_described),
        _ => {}
    }
}

fn tells_what_is_there(node: &Node) {
    let all = json_of(node, "/tmp/one");
    assert_described(&all);
    assert_eq!(
        (&all["kind"], &all["maker"], &all["hostname"]),
        (&"checkpoint".into(), &"rtc".into(), &"inside".into())
    );
    assert_eq!((&all["record"]["id"], &all["record"]["leftRunning"]), (&"c1".into(), &true.into()));
    assert_eq!(all["record"]["options"]["tcpEstablished"], true);
    assert!(all["criu"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{all:#}");
    assert!(all["timings"]["frozen"].as_u64().unwrap() > 0);
    assert_eq!(all["problems"], json!([]));
    let checksums = &all["record"]["checksums"];
    assert!(checksums["files"].as_u64().unwrap() > 20, "{checksums}");

    let shell = &all["processes"][0];
    assert_eq!(
        (&shell["pid"], &shell["name"], &shell["state"], &shell["uid"]),
        (&1.into(), &"sh".into(), &"alive".into(), &0.into())
    );
    assert_eq!(shell["arguments"][1], "-c");
    assert!(shell["memory"]["anonymous"]["stored"].as_u64().unwrap() >= 4096, "{shell:#}");
    let file = |fd: u32| shell["files"].as_array().unwrap().iter().find(|file| file["fd"] == fd).unwrap();
    assert_eq!(
        (&file(8)["type"], &file(8)["path"], &file(8)["position"]),
        (&"regular".into(), &"/log".into(), &3.into())
    );
    assert_eq!(file(9)["deleted"], true, "{shell:#}");

    let tree = process(&all, "\"tree\"");
    let of_tree = |process: &&Value| process["parent"] == tree["pid"];
    let children: Vec<_> = all["processes"].as_array().unwrap().iter().filter(of_tree).collect();
    assert!(children.iter().any(|child| child["session"] == child["pid"]), "{children:#?}");
    assert!(children.iter().any(|child| child["state"] == "zombie"), "{children:#?}");
    let threads = process(&all, "\"threads\"")["threads"].as_array().unwrap();
    assert!(threads.len() >= 3 && threads[1]["name"].is_string(), "{threads:?}");
    let listens = json!({"ip": "127.0.0.1", "port": 7});
    let sockets = |process: &Value| -> Vec<Value> {
        process["files"].as_array().unwrap().iter().filter(|file| file["type"] == "socket").cloned().collect()
    };
    let echo = sockets(process(&all, "\"echo\""));
    assert!(echo.iter().any(|socket| socket["state"] == "listen" && socket["local"] == listens), "{echo:#?}");
    let talk = sockets(process(&all, "\"talk\""));
    assert!(talk.iter().any(|socket| socket["state"] == "established" && socket["remote"] == listens), "{talk:#?}");
    let namespaces = all["namespaces"].as_array().unwrap();
    assert!(["mnt", "pid", "uts"].iter().all(|kind| namespaces.contains(&json!(kind))), "{namespaces:?}");
    assert!(
        all["mounts"].as_array().unwrap().iter().any(|mount| mount["path"] == "/proc" && mount["filesystem"] == "proc")
    );

    let shown = inspect(node, &["/tmp/one"]);
    let text = shown.text();
    assert!(!text.contains('\x1b'), "colours without a terminal");
    for words in [
        "checkpoint of c1 in /tmp/one, by rtc",
        "127.0.0.1:7 (listening)",
        "file /gone (write",
        "zombie",
        "hostname inside",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let mut terminal = node.spawn_tty(["env", "TERM=xterm", "rtc", "inspect", "/tmp/one"]).unwrap();
    terminal.expect("\x1b[1mcheckpoint\x1b[0m", LONG).unwrap();
    terminal.wait(LONG).unwrap();
    let (_, plain) =
        node.spawn_tty(["env", "TERM=xterm", "NO_COLOR=1", "rtc", "inspect", "/tmp/one"]).unwrap().wait(LONG).unwrap();
    assert!(plain.contains("by rtc") && !plain.contains('\x1b'), "{plain}");
}

fn tells_the_difference(node: &Node) {
    let text = node.run(["rtc", "diff", "/tmp/one", "/tmp/two"]).unwrap();
    assert!(text.contains("fileLocks") && text.contains("mounts the same"), "{text}");
    let all: Value =
        serde_json::from_str(&node.run(["rtc", "diff", "-f", "json", "/tmp/one", "/tmp/two"]).unwrap()).unwrap();
    assert_described(&all);
    assert_eq!(all["mounts"], json!({"gone": [], "new": []}));
    let options = all["options"].as_array().unwrap();
    assert!(options.contains(&json!({"name": "leftRunning", "before": true, "after": false})), "{options:#?}");
    let same = node.run(["rtc", "diff", "/tmp/one", "/tmp/one"]).unwrap();
    assert_eq!(same.matches("the same").count(), 6, "{same}");
}

/// Each file of the checkpoint, with a bit flipped, cut off, and gone.
fn refuses_what_is_damaged(node: &Node) {
    let script = r#"
        cd /tmp/two
        for file in *.img descriptors.json; do
            cp "$file" /tmp/whole
            size=$(stat -c %s "$file")
            for how in flip cut gone; do
                case $how in
                    flip) test $size -gt 0 || continue
                        at=$((size / 2))
                        byte=$(od -An -tu1 -j $at -N 1 "$file")
                        printf "\\$(printf %o $((byte ^ 1)))" | dd of="$file" bs=1 seek=$at conv=notrunc status=none ;;
                    cut) test $size -gt 0 || continue
                        truncate -s $((size - 1)) "$file" ;;
                    gone) rm "$file" ;;
                esac
                if message=$(rtc restore -d -b /srv/bundle --image-path /tmp/two c2 2>&1 </dev/null); then
                    echo "$file $how: restored"; exit 1
                fi
                case $message in
                    *"$file"*) ;;
                    *) echo "$file $how: $message"; exit 1 ;;
                esac
                cp /tmp/whole "$file"
            done
        done
        rm /tmp/whole
        rtc state c2 && exit 1
        rtc inspect --verify /tmp/two >/dev/null
    "#;
    let output = node.exec_within(2 * LONG, ["sh", "-c", script]).unwrap();
    assert_eq!(output.code(), 0, "{}\n{}", output.text(), output.error_text());
}

fn shows_damage_and_the_rest(node: &Node) {
    node.sh("cp -a /tmp/two /tmp/bad; truncate -s -1 /tmp/bad/files.img; rm /tmp/bad/core-1.img").unwrap();
    let shown = inspect(node, &["/tmp/bad"]);
    assert_eq!(shown.code(), 1);
    let text = shown.text();
    assert!(shown.error_text().contains("the checkpoint in /tmp/bad has 2 problems"), "{}", shown.error_text());
    assert!(text.contains("core-1.img: it is missing"), "{text}");
    assert!(text.contains("files.img at byte ") && text.contains(": it ends in the middle of an entry"), "{text}");
    assert!(text.contains("/bin/workload") && text.contains("/proc"), "{text}");
    // Where sizes are not enough, checksums are.
    node.sh("rm -r /tmp/bad; cp -a /tmp/two /tmp/bad; printf x | dd of=/tmp/bad/pages-1.img conv=notrunc status=none")
        .unwrap();
    assert_eq!(inspect(node, &["/tmp/bad"]).code(), 0);
    let verified = inspect(node, &["--verify", "/tmp/bad"]);
    assert!(verified.text().contains("pages-1.img: its content is not what was written"), "{}", verified.text());
    assert_eq!(verified.code(), 1);
    let nothing = inspect(node, &["/tmp"]);
    assert!(nothing.error_text().contains("it is not a checkpoint"), "{}", nothing.error_text());
}

fn restores_and_tells_how_long(node: &Node) {
    node.sh("rtc restore -d -b /srv/bundle --image-path /tmp/two c2 </dev/null >/dev/null 2>&1").unwrap();
    let all = json_of(node, "/tmp/two");
    assert!(
        all["restore"]["total"].as_u64().unwrap() > 0 && all["restore"]["pagesRestored"].as_u64().unwrap() > 0,
        "{all:#}"
    );
    assert!(inspect(node, &["/tmp/two"]).text().contains("last restore "));
    node.run(["rtc", "delete", "-f", "c2"]).unwrap();
}

/// What can be told without the key, all with it, and what is damaged.
fn of_sealed_ones(node: &Node) {
    let identity = age::x25519::Identity::generate();
    node.write("/tmp/key", identity.to_string().expose_secret()).unwrap();
    checkpoint(node, "c1", "/tmp/zstd", "--leave-running --compress");
    checkpoint(node, "c1", "/tmp/age", "--leave-running --compress=zstd:1 --encrypt-key /tmp/key");
    let all = json_of(node, "/tmp/zstd");
    assert_described(&all);
    let sealed = &all["record"]["sealed"];
    assert_eq!((&sealed["compression"], &sealed["level"]), (&"zstd".into(), &1.into()));
    assert_eq!((&sealed["encryption"], &sealed["opened"]), (&Value::Null, &true.into()));
    assert!(sealed["bytes"].as_u64().unwrap() < all["bytes"].as_u64().unwrap(), "{all:#}");
    assert!(process(&all, "\"echo\"")["memory"]["anonymous"]["stored"].as_u64().unwrap() >= 4096);

    let without = json_of(node, "/tmp/age");
    let sealed = &without["record"]["sealed"];
    assert_eq!((&sealed["encryption"], &sealed["opened"]), (&"aes-256-gcm".into(), &false.into()));
    assert_eq!((&without["processes"], &without["record"]["id"]), (&json!([]), &"c1".into()));
    assert!(without["sizes"].as_array().unwrap().iter().any(|size| size["kind"] == "pages"), "{without:#}");
    let text = inspect(node, &["/tmp/age"]).text();
    assert!(text.contains("compressed by zstd (level 1), encrypted by aes-256-gcm"), "{text}");
    assert!(text.contains("--decrypt-key") && !text.contains("/bin/workload"), "{text}");
    let text = inspect(node, &["--decrypt-key", "/tmp/key", "--verify", "/tmp/age"]);
    assert_eq!((text.code(), text.error_text().as_str()), (0, ""), "{}", text.text());
    assert!(text.text().contains("127.0.0.1:7 (listening)"), "{}", text.text());

    let compared = node.run(["rtc", "diff", "--decrypt-key", "/tmp/key", "/tmp/one", "/tmp/age"]).unwrap();
    assert!(compared.contains("mounts the same"), "{compared}");
    let refused = node.exec(["rtc", "diff", "/tmp/one", "/tmp/age"]).unwrap();
    assert!(refused.code() == 1 && refused.error_text().contains("is encrypted"), "{}", refused.error_text());

    node.sh("printf xyxyxy | dd of=/tmp/age/pages-1.img.sealed bs=1 seek=100 conv=notrunc status=none").unwrap();
    let damaged = inspect(node, &["--decrypt-key", "/tmp/key", "--verify", "/tmp/age"]);
    assert!(damaged.code() == 1 && damaged.text().contains("pages-1.img: chunk 0 is not"), "{}", damaged.text());
    assert!(damaged.text().contains("127.0.0.1:7 (listening)"), "{}", damaged.text());
    node.run(["rm", "-r", "/tmp/zstd", "/tmp/age", "/tmp/key"]).unwrap();
}

fn of_runc(node: &Node) {
    start(node, "runc", "c3");
    let made =
        ["runc", "checkpoint", "--tcp-established", "--image-path", "/tmp/runc", "--work-path", "/tmp/work", "c3"];
    let made = node.exec_within(LONG, made).unwrap();
    assert_eq!(made.code(), 0, "{}\n{}", made.error_text(), node.sh("tail /tmp/work/dump.log").unwrap_or_default());
    let all = json_of(node, "/tmp/runc");
    assert_eq!(
        (&all["maker"], &all["record"], &all["processes"][0]["name"]),
        (&"runc".into(), &Value::Null, &"sh".into())
    );
}

/// A process of the node's own, with nothing around it.
fn of_criu(node: &Node) {
    let dump = "mkdir /tmp/criu; setsid /run/workload sleep </dev/null >/dev/null 2>&1 & \
        sleep 0.2; criu dump -t $! -D /tmp/criu -o dump.log -v4 && wait";
    let output = node.exec_within(LONG, ["bash", "-c", dump]).unwrap();
    let log = node.sh("grep Error /tmp/criu/dump.log").unwrap_or_default();
    assert!(node.exists("/tmp/criu/inventory.img"), "{} {log}", output.error_text());
    let all = json_of(node, "/tmp/criu");
    assert_eq!((&all["maker"], &all["processes"][0]["name"]), (&"criu".into(), &"workload".into()));
    assert!(all["criu"].is_string() && all["timings"]["frozen"].as_u64().unwrap() > 0, "{all:#}");
}
