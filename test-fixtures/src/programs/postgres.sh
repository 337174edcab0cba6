# A cluster, and pgbench on it. /started is there when that is under way, /done when it has ended; then /report is what it
# says, and /sums the number of transactions in the history and four sums that are equal if each was whole.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
export PGHOST=/run/postgresql PGUSER=postgres
mkdir -p $data $PGHOST
chown -R postgres:postgres /var/lib/postgresql $PGHOST
as="setpriv --reuid=postgres --regid=postgres --clear-groups"
$as $bin/initdb --pgdata=$data --auth=trust --locale=C --no-sync >/dev/null
$as $bin/postgres -D $data -c listen_addresses= -c unix_socket_directories=$PGHOST &
until $bin/pg_isready -q; do sleep 0.1; done
$bin/pgbench -iq -s 2 postgres
: >/started
$bin/pgbench --no-vacuum --client=4 --jobs=2 --transactions=1000 postgres >/report
$bin/psql -AtF ' ' -c 'select (select count(*) from pgbench_history), (select sum(delta) from pgbench_history),
    (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
    (select sum(bbalance) from pgbench_branches)' postgres >/sums
: >/done
wait
