// Capabilities: a smaller bounding set, some dropped, inheritable and ambient ones, securebits.
#include "selfcheck.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  for (int cap : {CAP_SYS_TIME, CAP_SYS_MODULE, CAP_MKNOD})
    if (prctl(PR_CAPBSET_READ, cap) == 1) must(prctl(PR_CAPBSET_DROP, cap), "PR_CAPBSET_DROP");
  must(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT_LOCKED), "PR_SET_SECUREBITS");
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  must(syscall(SYS_capget, &header, data), "capget");
  data[0].inheritable = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_CHOWN;
  data[0].permitted &= ~(1u << CAP_SYS_TIME | 1u << CAP_KILL);
  data[0].effective = data[0].permitted & ~(1u << CAP_NET_RAW);
  must(syscall(SYS_capset, &header, data), "capset");
  must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0), "PR_CAP_AMBIENT_RAISE");
  const int bits = prctl(PR_GET_SECUREBITS);
  const std::string before = read_text("/proc/self/status");
  ready();
  wait_for_go();
  const std::string now = read_text("/proc/self/status");
  for (const char* name : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Uid"})
    REQUIRE(line_value(now, name) == line_value(before, name), "%s was %s, is %s", name,
            line_value(before, name).c_str(), line_value(now, name).c_str());
  REQUIRE(prctl(PR_GET_SECUREBITS) == bits, "securebits were %x, are %x", bits, prctl(PR_GET_SECUREBITS));
  return passed();
}
