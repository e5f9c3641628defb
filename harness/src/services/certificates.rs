//! Certificates for servers and clients that speak TLS.

use std::process::Command;

/// A certificate of `127.0.0.1` and `localhost`, for a server or a client, and who signed it, as PEM files.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them with the `openssl` program.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder.path()).args(arguments.split(' '));
            let output = command.output().expect("the program openssl, from the package of that name");
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=hotbook-tests"));
        openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(folder.path().join("names"), names).expect("a file");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        Self { folder }
    }

    /// `ca.pem`, `server.pem` or `server.key`.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn ca_pem(&self) -> Vec<u8> {
        std::fs::read(self.path("ca.pem")).expect("a file")
    }
}
