use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use host::RuntimeDir;

use crate::namespace::run;

fn refused(path: &Path) -> String {
    RuntimeDir::claim(path).expect_err("refused").to_string()
}

#[test]
fn one_daemon_per_folder() {
    let temp = tempfile::tempdir().expect("a folder");
    let path = temp.path().join("a/run");
    let first = RuntimeDir::claim(&path).expect("claimed");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        refused(&path),
        format!(
            "another xtproxyd (pid {}) owns {}; stop it, or give this one another runtime_dir",
            std::process::id(),
            path.display()
        )
    );
    first.leave().expect("left");
    assert!(!temp.path().join("a").exists(), "what was created is gone");
    drop(RuntimeDir::claim(&path).expect("free again"));
    assert!(!temp.path().join("a").exists(), "also when it is dropped");
}

/// The claim ends with its process, however that ends.
#[test]
fn a_killed_daemon_has_no_claim() {
    let temp = tempfile::tempdir().expect("a folder");
    let lock = temp.path().join("lock");
    let mut other = std::process::Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo 4711 > \"$0\"; echo; exec sleep 600"])
        .arg(&lock)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("flock");
    let mut told = [0];
    let mut output = other.stdout.take().expect("piped");
    std::io::Read::read_exact(&mut output, &mut told).expect("it has the lock");
    let said = refused(temp.path());
    // flock itself waits for its command; both hold the lock.
    run(&format!("pkill -KILL -P {}", other.id()));
    other.wait().expect("it ends");
    assert!(
        said.starts_with("another xtproxyd (pid 4711) owns "),
        "{said}"
    );
    RuntimeDir::claim(temp.path()).expect("claimed");
}

#[test]
fn what_was_there_stays() {
    let temp = tempfile::tempdir().expect("a folder");
    // A lock that a killed daemon left behind is no claim.
    fs::write(temp.path().join("lock"), "999999\n").expect("written");
    let claimed = RuntimeDir::claim(temp.path()).expect("claimed");
    fs::write(temp.path().join("changes.json"), "{}").expect("written");
    claimed.remove().expect("removed");
    assert!(!temp.path().join("lock").exists());
    assert!(temp.path().join("changes.json").exists());

    fs::remove_file(temp.path().join("changes.json")).expect("removed");
    RuntimeDir::claim(temp.path())
        .expect("claimed")
        .remove()
        .expect("removed");
    assert!(!temp.path().exists(), "empty, so it goes");
}

#[test]
fn a_folder_that_cannot_serve_says_why() {
    let temp = tempfile::tempdir().expect("a folder");
    assert_eq!(
        refused(Path::new("run/xtproxy")),
        "runtime_dir run/xtproxy: give an absolute path"
    );

    let file = temp.path().join("file");
    fs::write(&file, "").expect("written");
    assert_eq!(
        refused(&file),
        format!("runtime_dir {}: is not a folder", file.display())
    );
    let below = file.join("below");
    assert_eq!(
        refused(&below),
        format!(
            "runtime_dir {}: a part of this path is not a folder",
            below.display()
        )
    );

    let open = temp.path().join("open");
    fs::create_dir(&open).expect("created");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    assert_eq!(
        refused(&open),
        format!(
            "runtime_dir {0}: others can write to it (mode 0777); run `chmod go-w {0}` or choose \
             another",
            open.display()
        )
    );
    assert!(!open.join("lock").exists());
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let temp = tempfile::tempdir().expect("a folder");
    let victim = temp.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    let run = temp.path().join("run");
    fs::create_dir(&run).expect("created");
    std::os::unix::fs::symlink(&victim, run.join("lock")).expect("linked");
    assert!(refused(&run).contains("lock: "), "{}", refused(&run));
    assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
}
