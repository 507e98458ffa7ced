/* A double of libnvidia-ml.so.1 at the ABI: what real pynvml calls, answered from a text file.
 *
 * LABCTL_NVML_STATE names the file. It is read at every call, so that a GPU can get lost, fill up
 * or lose its driver while a program runs. One `key=value` a line; memory in MiB; see __init__.py.
 * `error.<function>=<code>` makes a function fail for all, `gpu.0.error.<function>` for one
 * device, `gpu.0.error=<code>` every function of one device.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MIB (1024ULL * 1024ULL)
#define SLOTS 16 /* handles a GPU: itself, then its MIG devices */

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    VERSION_MISMATCH = 25
};
#define NOT_AVAILABLE 0xffffffffffffffffULL

typedef void *Device;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} MemoryV2;
typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} Pci;
typedef struct {
    unsigned int gpu, memory;
} Utilization;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} Process;
typedef struct {
    Device device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} Event;

_Static_assert(sizeof(MemoryV2) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(Process) == 24, "nvmlProcessInfo_v2_t");
_Static_assert(sizeof(Pci) == 68, "nvmlPciInfo_t");

static int users = 0;
static unsigned int told = 0; /* events that were handed out */

/* 1 and the value of a key; 0 when the file or the key is missing. */
static int look_up(const char *key, char *value, size_t size)
{
    const char *path = getenv("LABCTL_NVML_STATE");
    FILE *file = path ? fopen(path, "re") : NULL;
    char line[512];
    size_t length = strlen(key);
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, key, length) && line[length] == '=') {
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    if (file)
        fclose(file);
    return found;
}

static unsigned long long number(const char *key, unsigned long long otherwise)
{
    char value[64];
    return look_up(key, value, sizeof value) ? strtoull(value, NULL, 10) : otherwise;
}

/* The file's prefix of a device: "gpu.0" or "gpu.0.mig.1"; 0 when there is no such device. */
static int name_of(Device device, char *prefix, size_t size)
{
    size_t handle = (size_t)device - 1;
    unsigned int gpu = handle / SLOTS, slot = handle % SLOTS;
    if (!device || handle >= 64 * SLOTS)
        return 0;
    if (slot)
        snprintf(prefix, size, "gpu.%u.mig.%u", gpu, slot - 1);
    else
        snprintf(prefix, size, "gpu.%u", gpu);
    return 1;
}

/* The error that the file wants of a function, for all or for one device; else SUCCESS. */
static int wanted_error(const char *function, const char *prefix)
{
    char key[160];
    snprintf(key, sizeof key, "error.%s", function);
    int error = (int)number(key, SUCCESS);
    if (error || !prefix)
        return error;
    snprintf(key, sizeof key, "%s.error.%s", prefix, function);
    error = (int)number(key, SUCCESS);
    snprintf(key, sizeof key, "%s.error", prefix);
    return error ? error : (int)number(key, SUCCESS);
}

#define ENTER(prefix, device)                                                                     \
    char prefix[64];                                                                              \
    if (!users)                                                                                   \
        return UNINITIALIZED;                                                                     \
    if (!name_of(device, prefix, sizeof prefix))                                                  \
        return INVALID_ARGUMENT;                                                                  \
    int error = wanted_error(__func__, prefix);                                                   \
    if (error)                                                                                    \
        return error

static int text_of(const char *prefix, const char *what, char *out, unsigned int size)
{
    char key[96], value[256];
    snprintf(key, sizeof key, "%s.%s", prefix, what);
    if (!look_up(key, value, sizeof value))
        return NOT_SUPPORTED;
    if (strlen(value) + 1 > size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static int number_of(const char *prefix, const char *what, unsigned long long *out)
{
    char key[96], value[64];
    snprintf(key, sizeof key, "%s.%s", prefix, what);
    if (!look_up(key, value, sizeof value))
        return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 10);
    return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    int error = wanted_error(__func__, NULL);
    if (!error)
        users++;
    return error;
}

EXPORT int nvmlShutdown(void)
{
    if (!users)
        return UNINITIALIZED;
    users--;
    return SUCCESS;
}

EXPORT const char *nvmlErrorString(int code)
{
    return code == SUCCESS ? "Success" : "An error of the double";
}

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    if (!users)
        return UNINITIALIZED;
    int error = wanted_error(__func__, NULL);
    if (error)
        return error;
    char value[96];
    if (!look_up("driver", value, sizeof value))
        return NOT_SUPPORTED;
    snprintf(version, length, "%s", value);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned int *count)
{
    if (!users)
        return UNINITIALIZED;
    *count = (unsigned int)number("gpus", 0);
    return wanted_error(__func__, NULL);
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device *device)
{
    if (users && index >= number("gpus", 0))
        return INVALID_ARGUMENT;
    *device = (Device)(size_t)(1 + index * SLOTS);
    ENTER(prefix, *device);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetName(Device device, char *name, unsigned int length)
{
    ENTER(prefix, device);
    return text_of(prefix, "name", name, length);
}

EXPORT int nvmlDeviceGetUUID(Device device, char *uuid, unsigned int length)
{
    ENTER(prefix, device);
    return text_of(prefix, "uuid", uuid, length);
}

EXPORT int nvmlDeviceGetPciInfo_v3(Device device, Pci *pci)
{
    ENTER(prefix, device);
    memset(pci, 0, sizeof *pci);
    return text_of(prefix, "pci", pci->bus_id, sizeof pci->bus_id);
}

EXPORT int nvmlDeviceGetMemoryInfo(Device device, Memory *memory)
{
    ENTER(prefix, device);
    unsigned long long reserved = 0;
    error = number_of(prefix, "total", &memory->total);
    if (!error)
        error = number_of(prefix, "free", &memory->free);
    number_of(prefix, "reserved", &reserved);
    memory->total *= MIB;
    memory->free *= MIB;
    memory->used = memory->total - memory->free; /* the first version counts the reserved in */
    return error;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *memory)
{
    ENTER(prefix, device);
    if (memory->version != 0x02000028)
        return VERSION_MISMATCH;
    memory->reserved = 0;
    error = number_of(prefix, "total", &memory->total);
    if (!error)
        error = number_of(prefix, "free", &memory->free);
    number_of(prefix, "reserved", &memory->reserved);
    memory->total *= MIB;
    memory->free *= MIB;
    memory->reserved *= MIB;
    memory->used = memory->total - memory->free - memory->reserved;
    return error;
}

static int processes(const char *prefix, const char *kind, unsigned int *count, Process *out)
{
    char key[96], value[64];
    unsigned int room = out ? *count : 0, there;
    snprintf(key, sizeof key, "%s.%s", prefix, kind);
    there = (unsigned int)number(key, 0);
    *count = there;
    if (there > room)
        return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < there; i++) {
        snprintf(key, sizeof key, "%s.%s.%u.pid", prefix, kind, i);
        out[i].pid = (unsigned int)number(key, 0);
        snprintf(key, sizeof key, "%s.%s.%u.used", prefix, kind, i);
        out[i].used = look_up(key, value, sizeof value) ? strtoull(value, NULL, 10) * MIB
                                                        : NOT_AVAILABLE;
        out[i].gpu_instance = out[i].compute_instance = 0xffffffffU;
    }
    return SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned int *count,
                                                   Process *out)
{
    ENTER(prefix, device);
    return processes(prefix, "compute", count, out);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned int *count,
                                                    Process *out)
{
    ENTER(prefix, device);
    return processes(prefix, "graphics", count, out);
}

EXPORT int nvmlDeviceGetUtilizationRates(Device device, Utilization *rates)
{
    ENTER(prefix, device);
    unsigned long long value = 0;
    error = number_of(prefix, "utilisation", &value);
    rates->gpu = (unsigned int)value;
    rates->memory = 0;
    return error;
}

EXPORT int nvmlDeviceGetTemperature(Device device, unsigned int sensor, unsigned int *degrees)
{
    ENTER(prefix, device);
    unsigned long long value = 0;
    if (sensor != 0)
        return INVALID_ARGUMENT;
    error = number_of(prefix, "temperature", &value);
    *degrees = (unsigned int)value;
    return error;
}

EXPORT int nvmlDeviceGetMigMode(Device device, unsigned int *current, unsigned int *pending)
{
    ENTER(prefix, device);
    unsigned long long value = 0;
    error = number_of(prefix, "mig_mode", &value);
    *current = *pending = (unsigned int)value;
    return error;
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned int *count)
{
    ENTER(prefix, device);
    *count = SLOTS - 1;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned int index, Device *mig)
{
    ENTER(prefix, device);
    char key[96], value[8];
    if (index >= SLOTS - 1)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%s.mig.%u.uuid", prefix, index);
    if (!look_up(key, value, sizeof value))
        return NOT_FOUND;
    *mig = (Device)((size_t)device + 1 + index);
    return SUCCESS;
}

/* Events: XIDs are told in the file's order; those from before the set are not replayed. */
EXPORT int nvmlEventSetCreate(void **set)
{
    if (!users)
        return UNINITIALIZED;
    *set = &told;
    told = (unsigned int)number("xids", 0);
    return wanted_error(__func__, NULL);
}

EXPORT int nvmlDeviceRegisterEvents(Device device, unsigned long long types, void *set)
{
    ENTER(prefix, device);
    return set && types ? SUCCESS : INVALID_ARGUMENT;
}

EXPORT int nvmlEventSetWait_v2(void *set, Event *event, unsigned int timeout_ms)
{
    char key[64];
    if (!users || !set)
        return users ? INVALID_ARGUMENT : UNINITIALIZED;
    for (unsigned int waited = 0; number("xids", 0) <= told; waited += 10) {
        if (waited >= timeout_ms)
            return TIMEOUT;
        usleep(10 * 1000);
    }
    memset(event, 0, sizeof *event);
    snprintf(key, sizeof key, "xid.%u.gpu", told);
    event->device = (Device)(size_t)(1 + number(key, 0) * SLOTS);
    event->type = 8; /* nvmlEventTypeXidCriticalError */
    snprintf(key, sizeof key, "xid.%u.code", told);
    event->data = number(key, 0);
    told++;
    return wanted_error(__func__, NULL);
}

EXPORT int nvmlEventSetFree(void *set)
{
    return set ? SUCCESS : INVALID_ARGUMENT;
}
