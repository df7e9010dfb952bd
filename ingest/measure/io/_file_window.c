/* Pages of a file shown at one place in memory, for file_window.py, which says when they are read so. Linux alone.

   A page that cannot be had any more (a file that was cut, a disk that failed) raises SIGBUS where it is read, which would end
   the process. The handler here puts zeros in the window from that page on and keeps in mind that it did; whoever read the
   window asks afterwards. A SIGBUS of any other place goes to the handler that was there before. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#if !defined(__linux__) || !defined(__GNUC__)
#error "needs Linux's mappings and GCC's atomics; built without this extension, files are read into buffers"
#endif
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef WITHOUT_CACHESTAT /* as before Linux 6.5, for tests */
#undef SYS_cachestat
#define SYS_cachestat -1
#elif !defined(SYS_cachestat)
#define SYS_cachestat 451
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; an older one answers EINVAL, and pages come when they are read */
#endif

/* ALIGN: a page of 2 MiB. Where a file lies in memory as it lies on such pages of the cache, one entry maps all of one. */
enum { MOST_WINDOWS = 256, ALIGN = 1 << 21, PAGES_AT_ONCE = 512 };

typedef struct {
    uintptr_t start, end, memory; /* start is 0: free */
    uint64_t first, past; /* bytes of the file that are mapped; past is 0 where none are */
    int file, is_torn;
} Place;

/* Changed with Python's lock held, or by the thread whose window it is. The handler reads `start` before `end`; both are written
   while nobody reads the window. */
static Place places[MOST_WINDOWS];
static int watched;
static uintptr_t page_size;
static struct sigaction before;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < MOST_WINDOWS; i++) {
        uintptr_t start = __atomic_load_n(&places[i].start, __ATOMIC_ACQUIRE);
        if (start == 0 || at < start || at >= places[i].end)
            continue;
        int kept = errno;
        uintptr_t page = at - at % page_size;
        void *zeros = mmap((void *)page, places[i].end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        errno = kept;
        if (zeros == MAP_FAILED)
            break;
        __atomic_store_n(&places[i].is_torn, 1, __ATOMIC_RELEASE);
        return;
    }
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    else
        sigaction(number, &before, NULL); /* the same read faults again, and ends the process as it would have */
}

static int is_ours(void)
{
    struct sigaction now;
    return sigaction(SIGBUS, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_bus_error;
}

static void cover(Place *place)
{
    place->past = 0;
    mmap((void *)place->start, place->end - place->start, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Whether so many bytes of a file are in the system's cache; -1: it does not say (before Linux 6.5, or a file of others). */
static int is_cached(int file, uint64_t offset, uint64_t size)
{
    struct {
        uint64_t offset, size;
    } range = {offset, size};
    struct {
        uint64_t cached, dirty, written, evicted, lately_evicted;
    } found;
    uint64_t pages = (offset + size - 1) / page_size - offset / page_size + 1;
    return syscall(SYS_cachestat, file, &range, &found, 0) == 0 ? found.cached >= pages : -1;
}

/* The same, also of one's own files on an older Linux, where a page at `start` of the window shows these bytes. mincore says of
   the files of others that all is there. */
static int is_resident(int file, uint64_t offset, uint64_t size, char *start)
{
    int said = is_cached(file, offset, size);
    if (said >= 0)
        return said;
    uint64_t pages = (size + page_size - 1) / page_size;
    struct stat status;
    if (geteuid() != 0 && (fstat(file, &status) < 0 || status.st_uid != geteuid()))
        return 0;
    for (uint64_t page = 0; page < pages; page += PAGES_AT_ONCE) {
        unsigned char resident[PAGES_AT_ONCE];
        uint64_t count = pages - page < PAGES_AT_ONCE ? pages - page : PAGES_AT_ONCE;
        if (mincore(start + page * page_size, count * page_size, resident) < 0)
            return 0;
        for (uint64_t i = 0; i < count; i++)
            if (!(resident[i] & 1))
                return 0;
    }
    return 1;
}

/* The address of bytes of a file, or NULL where they are to be read. */
static char *shown(Place *place, int file, uint64_t offset, uint64_t size)
{
    if (!is_ours())
        return NULL;
    char *start = (char *)place->start;
    if (place->is_torn || place->file != file || offset < place->first || offset + size > place->past) {
        uint64_t first = offset - offset % ALIGN, length = place->end - place->start;
        place->past = 0;
        if (mmap(start, length, PROT_READ, MAP_SHARED | MAP_FIXED, file, (off_t)first) != start) {
            cover(place);
            return NULL;
        }
        place->is_torn = 0;
        place->file = file;
        place->first = first;
        place->past = first + length;
    }
    char *at = start + (offset - place->first);
    uint64_t skipped = offset % page_size;
    if (!is_resident(file, offset - skipped, size + skipped, at - skipped))
        return NULL;
    madvise(at - skipped, size + skipped, MADV_POPULATE_READ);
    return at;
}

/* ---- Python's side ---- */

/* is_cached(file, offset, size) -> whether all of these bytes are in the system's cache; None: it does not say. */
static PyObject *ask_cached(PyObject *Py_UNUSED(self), PyObject *const *arguments, Py_ssize_t given)
{
    if (given != 3) {
        PyErr_SetString(PyExc_TypeError, "is_cached takes 3 arguments");
        return NULL;
    }
    long file = PyLong_AsLong(arguments[0]);
    long long offset = PyLong_AsLongLong(arguments[1]), size = PyLong_AsLongLong(arguments[2]);
    if (PyErr_Occurred())
        return NULL;
    if (offset < 0 || size <= 0 || size > INT64_MAX - offset) {
        PyErr_SetString(PyExc_ValueError, "no bytes of a file");
        return NULL;
    }
    int said;
    Py_BEGIN_ALLOW_THREADS
    said = is_cached((int)file, (uint64_t)offset, (uint64_t)size);
    Py_END_ALLOW_THREADS
    if (said < 0)
        Py_RETURN_NONE;
    return PyBool_FromLong(said);
}

static Place *place_of(PyObject *object)
{
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number < 0 || number >= MOST_WINDOWS || places[number].start == 0) {
        PyErr_SetString(PyExc_ValueError, "no such window");
        return NULL;
    }
    return &places[number];
}

/* watch(memory) -> number of a window over what of anonymous memory lies between multiples of ALIGN; -1: there can be no more. */
static PyObject *watch(PyObject *Py_UNUSED(self), PyObject *memory)
{
    Py_buffer view;
    if (PyObject_GetBuffer(memory, &view, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    uintptr_t at = (uintptr_t)view.buf, start = (at + ALIGN - 1) / ALIGN * ALIGN, end = (at + (uintptr_t)view.len) / ALIGN * ALIGN;
    PyBuffer_Release(&view);
    if (end <= start) {
        PyErr_SetString(PyExc_ValueError, "memory without a whole page of 2 MiB");
        return NULL;
    }
    int number = 0;
    while (number < MOST_WINDOWS && places[number].start)
        number++;
    if (number == MOST_WINDOWS)
        return PyLong_FromLong(-1);
    if (watched == 0) {
        struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        if (sigaction(SIGBUS, &ours, &before) < 0)
            return PyLong_FromLong(-1);
    }
    watched++;
    places[number] = (Place){.end = end, .memory = at};
    __atomic_store_n(&places[number].start, start, __ATOMIC_RELEASE);
    return PyLong_FromLong(number);
}

/* unwatch(number): let go of file and memory; with the last window the handler that was there before comes back, unless another
   was set since. */
static PyObject *unwatch(PyObject *Py_UNUSED(self), PyObject *number)
{
    Place *place = place_of(number);
    if (place == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (place->past)
        cover(place);
    Py_END_ALLOW_THREADS
    __atomic_store_n(&place->start, 0, __ATOMIC_RELEASE);
    if (--watched == 0 && is_ours())
        sigaction(SIGBUS, &before, NULL);
    Py_RETURN_NONE;
}

/* hide(number): let go of the file. */
static PyObject *hide(PyObject *Py_UNUSED(self), PyObject *number)
{
    Place *place = place_of(number);
    if (place == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (place->past)
        cover(place);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* show(number, file, offset, size) -> where in the memory these bytes are, from its start on; -1: they are to be read. */
static PyObject *show(PyObject *Py_UNUSED(self), PyObject *const *arguments, Py_ssize_t given)
{
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "show takes 4 arguments");
        return NULL;
    }
    Place *place = place_of(arguments[0]);
    long file = PyLong_AsLong(arguments[1]);
    long long offset = PyLong_AsLongLong(arguments[2]), size = PyLong_AsLongLong(arguments[3]);
    if (place == NULL || PyErr_Occurred())
        return NULL;
    if (offset < 0 || size <= 0 || (uint64_t)size + (uint64_t)(offset % ALIGN) > place->end - place->start) {
        PyErr_SetString(PyExc_ValueError, "more bytes than the window has room for");
        return NULL;
    }
    char *at;
    Py_BEGIN_ALLOW_THREADS
    at = shown(place, (int)file, (uint64_t)offset, (uint64_t)size);
    Py_END_ALLOW_THREADS
    return PyLong_FromSsize_t(at == NULL ? -1 : at - (char *)place->memory);
}

/* is_torn(number) -> whether a page that was shown last could not be had when it was read. */
static PyObject *is_torn(PyObject *Py_UNUSED(self), PyObject *number)
{
    Place *place = place_of(number);
    return place ? PyBool_FromLong(__atomic_load_n(&place->is_torn, __ATOMIC_ACQUIRE)) : NULL;
}

static PyMethodDef methods[] = {
    {"watch", watch, METH_O, "See file_window.py."},
    {"unwatch", unwatch, METH_O, "See file_window.py."},
    {"hide", hide, METH_O, "See file_window.py."},
    {"show", (PyCFunction)(void (*)(void))show, METH_FASTCALL, "See file_window.py."},
    {"is_torn", is_torn, METH_O, "See file_window.py."},
    {"is_cached", (PyCFunction)(void (*)(void))ask_cached, METH_FASTCALL, "See prefetch.py."},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *Py_UNUSED(module))
{
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, prepare}, {0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_file_window", "Pages of a file in memory; see file_window.py.", 0,
                                    methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__file_window(void) { return PyModuleDef_Init(&module); }
