//! Processes that die with the test.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a child that the kernel kills when this process ends. The kernel means the thread that started it, and a test's
/// thread ends before the servers that tests share, so one thread that never ends starts them all.
///
/// # Panics
/// When there is no such program.
pub fn spawn(mut command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let parent = std::process::id();
    // SAFETY: prctl, getppid and _exit are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // It may have died before the call.
            if libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let program = command.get_program().to_owned();
    let (answer, child) = channel();
    spawner.lock().expect("no panic").send((command, answer)).expect("the spawner lives");
    child.recv().expect("an answer").unwrap_or_else(|e| panic!("{} cannot be run: {e}", program.display()))
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a pid");
    // SAFETY: the child is ours and not waited for yet, so the pid is its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", std::io::Error::last_os_error());
}
