# Every kind of object and every kubectl command of the seed, one check a line, in the namespace `seed`. Run by main.rs beside this, with
# kubectl set up and the images of manifests/seed on the nodes. The first check that fails ends it.
set -u
M=$PWD/manifests/seed
cd "$(mktemp -d)" || exit 2
k() { kubectl -n seed "$@"; }
# want COMMAND: within a minute.
want() { local end=$((SECONDS + 60)); while ((SECONDS < end)); do eval "$1" >/dev/null 2>&1 && return 0; sleep 0.2; done; return 1; }
check() { # check NAME COMMAND
  local out start=$SECONDS
  if out=$(eval "$2" 2>&1); then echo "ok      $1 $((SECONDS - start)) s"; else
    echo "NOT OK  $1: $out"; k get all -o wide; k get events | tail -20; exit 1
  fi
}
running() { [ "$(k get pods -l "$1" --field-selector status.phase=Running -o name | wc -l)" = "$2" ]; }
restarted() { k get pod "$1" -o 'jsonpath={.status.containerStatuses[*].restartCount}' | grep -q 1; }
at() { k get "$1" -o jsonpath="$2"; }

check namespace-create "kubectl create namespace seed && kubectl get namespaces | grep -q seed && kubectl describe namespaces seed | grep -q Active"
want "k get serviceaccount default"

# Pod
check pod-create "k create -f $M/pod.yaml && want 'k get pod myweb | grep -q 2/2'"
check pod-shared-network "k exec myweb -c db -- wget -q -O- http://localhost:80/ | grep -qi title"
check pod-shared-ip "[ \"\$(k exec myweb -c db -- hostname -i | tr -d '[:space:]')\" = \"\$(at pod/myweb {.status.podIP})\" ]"
check pod-env "k exec myweb -c myweb -- env | grep -qx MYSQL_SERVER_PORT=3306"
check pod-describe "k describe pods myweb | grep -q 'memory: *128Mi' && k describe pods myweb | grep -q Started"
check pod-get-columns "k get pods myweb | head -1 | grep -qE 'NAME +READY +STATUS +RESTARTS +AGE'"
check pod-resources-in-cgroup "k exec myweb -c db -- sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max' | grep -qx 134217728"
check pod-container-restart "docker kill \$(docker ps -q --filter name=k8s_db_myweb_seed) && want 'restarted myweb' && want 'k get pod myweb | grep -q 2/2'"
check pod-replace "k get pod myweb -o yaml | sed 's/env: dev/env: qa/' | k replace -f - && [ \$(at pod/myweb {.metadata.labels.env}) = qa ]"
check pod-logs "k logs myweb -c myweb --tail=5 >/dev/null"
check label "k label pod myweb release=beta && k label pod myweb release=stable --overwrite && [ \$(at pod/myweb {.metadata.labels.release}) = stable ]"
check selector-equality "k get pods -l 'name=myweb,env!=production' -o name | grep -qx pod/myweb"
check selector-set "k get pods -l 'name notin (tomcat),env!=production' -o name | grep -qx pod/myweb && [ -z \"\$(k get pods -l 'name in (tomcat)' -o name 2>/dev/null)\" ]"
check pod-delete "k delete pod myweb && ! k get pod myweb"

# ReplicationController
check rc-create "k create -f $M/my-rc-v1.yaml && want 'running app=my-rc 3'"
check rc-heals "k delete \$(k get pods -l app=my-rc -o name | head -1) && want 'running app=my-rc 3'"
check rc-scale "k scale rc my-rc-v1 --replicas=5 && want 'running app=my-rc 5' && k scale rc my-rc-v1 --replicas=2 && want '[ \$(k get pods -l app=my-rc -o name | wc -l) = 2 ]'"
check rc-rolling-update "kubectl rolling-update my-rc-v1 -n seed -f $M/my-rc-v2.yaml --update-period=1s --poll-interval=1s && want 'running version=v2 3' && ! k get rc my-rc-v1"
check rc-rolling-update-rollback "kubectl rolling-update my-rc-v2 -n seed -f $M/my-rc-v1.yaml --update-period=20s & p=\$!; sleep 4; kill \$p; kubectl rolling-update my-rc-v2 -n seed -f $M/my-rc-v1.yaml --update-period=1s --poll-interval=1s --rollback && want 'running version=v2 3' && ! k get rc my-rc-v1"
check rc-delete "k delete rc --all && want '[ -z \"\$(k get pods -l app=my-rc -o name)\" ]'"

# Deployment
D=deployment/nginx-deployment
rolled="k rollout status $D --timeout=60s"
check deployment-create "k create -f $M/nginx.yaml && $rolled"
check deployment-describe "k describe $D | grep -q 'RollingUpdateStrategy: *25% max unavailable, 25% max surge'"
check deployment-set-image "k set image $D nginx=nginx:1.12.2 && $rolled"
check deployment-replica-sets "[ \$(k get rs -l app=nginx -o name | wc -l) = 2 ] && k get rs -l app=nginx --no-headers | awk '\$2==0' | grep -q ."
check deployment-history "k rollout history $D | grep -cE '^[12] ' | grep -qx 2"
check deployment-undo "k rollout undo $D && $rolled && [ \$(at $D {.spec.template.spec.containers[0].image}) = nginx ]"
check deployment-pause-resume "k rollout pause $D && k set image $D nginx=nginx:1.12.2 && sleep 1 && [ \$(k get rs -l app=nginx --no-headers | awk '\$2>0' | wc -l) = 1 ] && k rollout resume $D && $rolled"
check deployment-edit "KUBE_EDITOR=\"sed -i 's/replicas: 3/replicas: 2/'\" k edit $D && want 'running app=nginx 2'"
check deployment-scale "k scale $D --replicas 5 && want 'running app=nginx 5'"
check deployment-bad-image-keeps-serving "k set image $D nginx=does-not-exist:1 && want 'k get pods -l app=nginx | grep -qE \"ErrImage|ImagePull\"' && [ \$(at $D {.status.availableReplicas}) -ge 3 ] && k rollout undo $D && $rolled"

# Service
cat > client.yaml <<Y
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: mysql, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}]
Y
endpoints() { [ "$(at endpoints/nginx '{.subsets[0].addresses[*].ip}' | wc -w)" = "$1" ]; }
ip=$(at service/nginx '{.spec.clusterIP}')
ask="k exec client -- timeout 3 wget -q -O- http://$ip/"
check service-create "k create -f client.yaml && want 'k get pod client | grep -q 1/1' && want 'endpoints 5'"
check service-describe "k get services nginx | grep -q 80:30008/TCP && k describe services nginx | grep -q 'NodePort:.*30008/TCP'"
check service-cluster-ip-from-pod "want '$ask | grep -qi title'"
# A Service with one family, as here, has NodePorts at the nodes' addresses of that family.
check service-node-port "for n in \$(kubectl get nodes -o jsonpath='{.items[*].status.addresses[?(@.type==\"InternalIP\")].address}'); do case \$n in *:*) continue;; esac; want \"curl -s -m 3 http://\$n:30008/ | grep -qi title\" || exit 1; done"
check service-environment "k exec client -- env | grep -qx NGINX_SERVICE_HOST=$ip"
check service-dns "k exec client -- nslookup nginx.seed.svc.cluster.local | grep -q $ip && k exec client -- timeout 3 wget -q -O- http://nginx/ | grep -qi title"
check service-ip-stays "k scale $D --replicas=2 && want 'endpoints 2' && [ \$(at service/nginx {.spec.clusterIP}) = $ip ] && $ask | grep -qi title"
check service-session-affinity "k patch svc nginx -p '{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}' && $ask | grep -qi title"
check service-without-endpoints "k scale $D --replicas=0 && want '[ -z \"\$(at endpoints/nginx {.subsets})\" ]' && want '! $ask' && k exec client -- sh -c 'time -p timeout 5 wget -q -O- http://$ip/' 2>&1 | awk '/real/{exit !(\$2<2)}'"
check service-delete "k delete services nginx && ! k get svc nginx"

# Volumes
check volume-empty-dir "k create -f $M/volumes.yaml && want 'k get pod test-pd | grep -q 2/2' && k exec test-pd -c test-container -- sh -c 'echo kept > /cache/x' && k exec test-pd -c beside -- cat /data/x | grep -qx kept"
check volume-survives-restart "docker kill \$(docker ps -q --filter name=k8s_test-container_test-pd_seed) && want 'restarted test-pd' && want 'k exec test-pd -c test-container -- cat /cache/x | grep -qx kept'"
check volume-host-path "k exec test-pd -c test-container -- sh -c 'echo here > /test-pd/oarlock-seed' && grep -qx here /tmp/oarlock-seed && rm /tmp/oarlock-seed"
for n in 1 2; do cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: seed-pv$n}
spec: {capacity: {storage: $((n * 5))Gi}, accessModes: [ReadWriteOnce], storageClassName: seed, hostPath: {path: /tmp/oarlock-seed-pv$n}}
Y
done > pv.yaml
cat > pvc.yaml <<Y
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: myclaim}
spec: {accessModes: [ReadWriteOnce], storageClassName: seed, resources: {requests: {storage: 8Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: mypod}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: mysql, imagePullPolicy: IfNotPresent, command: [sh, -c, "echo data > /v/f; sleep 100000"], volumeMounts: [{mountPath: /v, name: mypd}]}]
  volumes: [{name: mypd, persistentVolumeClaim: {claimName: myclaim}}]
Y
check volume-available "kubectl create -f pv.yaml && want '[ \$(at pv/seed-pv1 {.status.phase}) = Available ]'"
check claim-binds-the-fitting-volume "k create -f pvc.yaml && want '[ \$(at pvc/myclaim {.status.phase}) = Bound ]' && [ \$(at pvc/myclaim {.spec.volumeName}) = seed-pv2 ]"
check claim-in-pod "want 'k exec mypod -- cat /v/f | grep -qx data'"
check volume-released "k delete pod mypod && k delete pvc myclaim && want '[ \$(at pv/seed-pv2 {.status.phase}) = Released ]' && kubectl delete -f pv.yaml; rm -rf /tmp/oarlock-seed-pv[12]; ! kubectl get pv seed-pv2"
check volume-nfs "k create -f $M/network-volumes.yaml && want '[ \$(at pv/pv1 {.status.phase}) = Available ]' && want 'k describe pod test-nfs | grep -q \"MountVolume.SetUp failed for volume .nfs. : mount failed: \"' && k delete -f $M/network-volumes.yaml"

# The other workloads: more of them in ../workloads.rs
check job "k create job one --image=nginx:1.12.2 -- echo done && k wait --for=condition=complete job/one --timeout=60s && k logs job/one | grep -qx done"
check cron-job "k create cronjob tick --image=nginx:1.12.2 --schedule='0 0 1 1 *' -- echo tick && k create job now --from=cronjob/tick && k get cronjob tick | grep -q '0 0 1 1'"
check config-map-and-secret "k create configmap cfg --from-literal=a=1 && k create secret generic sec --from-literal=b=2 && [ \$(at configmap/cfg {.data.a}) = 1 ] && [ \$(at secret/sec {.data.b}) = Mg== ]"

# Ingress and autoscaling: what an autoscaler does is in ../workloads/scaling.rs
check ingress "k create ingress web --rule=example.test/=nginx:80 && k get ingress web | grep -q example.test && k describe ingress web | grep -q nginx:80"
check autoscaler "k autoscale $D --cpu-percent=90 --min=1 --max=10 && k get hpa nginx-deployment | grep -q '90%' && k get hpa nginx-deployment | grep -q Deployment/nginx-deployment && k delete hpa nginx-deployment"

# Namespaces and nodes
check namespace-scoping "kubectl apply -f $M/namespace.yaml && want 'kubectl -n development get pod myweb | grep -q 1/1' && ! kubectl get pods 2>/dev/null | grep -q myweb && kubectl get pods --all-namespaces | grep -q test-pd && kubectl get pods --namespace=seed | grep -q test-pd && kubectl delete -f $M/namespace.yaml --timeout=60s"
check nodes "kubectl get nodes | grep -q ' Ready' && kubectl describe node node1 | grep -q 'Container Runtime Version: *docker://'"
check namespace-delete-takes-all "kubectl delete namespace seed --timeout=60s && ! kubectl get ns seed"
