# Apache Kafka (KRaft: no ZooKeeper), from Maven's registry. Sourced by scripts/services.
# shellcheck shell=bash disable=SC2154

kafka_version=4.4.0
kafka_libs=$home/kafka-$kafka_version/libs

kafka_is_installed() {
  local command
  [ -f "$home/kafka-$kafka_version/complete" ] && kafka_client_can_be_built || return 1
  for command in java javac openssl; do command -v $command >/dev/null || return 1; done
}

# Our client speaks TLS by OpenSSL. openssl-sys, which builds against it, also takes a folder.
kafka_client_can_be_built() { [ -n "${OPENSSL_DIR:-}" ] || pkg-config --exists openssl 2>/dev/null; }

kafka_install() {
  local folder=$home/kafka-$kafka_version version
  need java openjdk-17-jre-headless
  need mvn maven
  # What the tests make: a check of tokens for the broker, and certificates.
  need javac openjdk-17-jdk-headless
  need openssl openssl
  kafka_client_can_be_built || need_library openssl libssl-dev
  [ ! -f "$folder/complete" ] || return 0
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 17 ] || fail "kafka $kafka_version needs Java 17 or newer, this is ${version:-unknown}"
  rm -rf "$folder"
  mkdir -p "$folder"
  cat >"$folder/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>hotbook.tests</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-1.2-api</artifactId><version>2.25.5</version>
    </dependency>
  </dependencies>
</project>
POM
  cat >"$folder/log4j2.properties" <<'LOG'
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
LOG
  mvn -q -B -f "$folder/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=libs >&2 ||
    fail "kafka $kafka_version could not be fetched by Maven; see above. It needs Maven's central registry"
  touch "$folder/complete"
}

kafka_java() { java -Dlog4j2.configurationFile="$home/kafka-$kafka_version/log4j2.properties" "$@"; }

# kafka_run --dir=D --port=P --controller-port=C [--host=ADDRESS --node=N --voters=1@127.0.0.1:C,.. --cluster=ID]
#           [--classpath=JARS] [--property=K=V]..
# A property given here wins over those below.
kafka_run() {
  local dir='' host=127.0.0.1 port='' controller='' node=1 voters='' cluster=hotbookTestsAAAAAAAAAA classpath='' replicas=1 isr=1
  local argument properties=()
  for argument in "$@"; do
    case $argument in
      --dir=*) dir=${argument#*=} ;;
      --host=*) host=${argument#*=} ;;
      --port=*) port=${argument#*=} ;;
      --controller-port=*) controller=${argument#*=} ;;
      --node=*) node=${argument#*=} ;;
      --voters=*) voters=${argument#*=} ;;
      --cluster=*) cluster=${argument#*=} ;;
      --classpath=*) classpath=:${argument#*=} ;;
      --property=*) properties+=("${argument#*=}") ;;
      *) fail "kafka does not know $argument" ;;
    esac
  done
  : "${voters:=$node@127.0.0.1:$controller}"
  [[ $voters != *,*,* ]] || replicas=3 isr=2
  mkdir -p "$dir"
  {
    cat <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://$host:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://$host:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$isr
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=200
PROPERTIES
    printf '%s\n' "${properties[@]}"
  } >"$dir/server.properties"
  if [ ! -f "$dir/data/meta.properties" ]; then
    kafka_java -XX:TieredStopAtLevel=1 -cp "$kafka_libs/*" kafka.tools.StorageTool format \
      -t "$cluster" -c "$dir/server.properties" >"$dir/format.log" 2>&1 || fail "cannot format: $(cat "$dir/format.log")"
  fi
  exec java -Xms128m -Xmx512m -XX:+UseSerialGC -Dlog4j2.configurationFile="$home/kafka-$kafka_version/log4j2.properties" \
    -cp "$kafka_libs/*$classpath" kafka.Kafka "$dir/server.properties"
}

kafka_is_ready() { grep -q 'Kafka Server started' "$1/log"; }

# One broker, or more that are one cluster.
kafka_start() {
  local count=$1 n voters='' ports=() controllers=() cluster
  cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=')
  for n in $(seq "$count"); do
    ports[n]=$(free_port "${ports[@]}" "${controllers[@]}")
    controllers[n]=$(free_port "${ports[@]}" "${controllers[@]}")
    voters+=${voters:+,}$n@127.0.0.1:${controllers[n]}
  done
  for n in $(seq "$count"); do
    launch kafka "$home/run/kafka-$n" --port="${ports[n]}" --controller-port="${controllers[n]}" \
      --node="$n" --voters="$voters" --cluster="$cluster"
    echo "127.0.0.1:${ports[n]}" >"$home/run/kafka-$n/address"
  done
  for n in $(seq "$count"); do await kafka "$home/run/kafka-$n"; done
}

kafka_env() {
  local dir addresses=''
  for dir in "$@"; do addresses+=${addresses:+,}$(cat "$dir/address"); done
  echo "KAFKA_BROKERS=$addresses"
}
