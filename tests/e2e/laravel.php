<?php
// A Laravel application in one file, of Debian's php-laravel-framework: encrypted cookies, a session, CSRF, signed URLs. It writes
// beside itself. $TRUST is the proxy it believes, as in the middleware TrustProxies.
require 'Illuminate/autoload.php';

use Illuminate\Http\Request;
use Illuminate\Support\Facades\Route;
use Illuminate\Support\Facades\URL;

foreach (['bootstrap/cache', 'storage/framework/sessions', 'storage/framework/views', 'storage/logs'] as $folder) {
    @mkdir(__DIR__ . "/$folder", 0700, true);
}
class Proxies extends Illuminate\Http\Middleware\TrustProxies {
    public function __construct() { $this->proxies = getenv('TRUST') ?: null; }
    protected function getTrustedHeaderNames() {
        return Request::HEADER_X_FORWARDED_FOR | Request::HEADER_X_FORWARDED_HOST | Request::HEADER_X_FORWARDED_PORT
            | Request::HEADER_X_FORWARDED_PROTO | Request::HEADER_X_FORWARDED_PREFIX;
    }
}
class Cookies extends Illuminate\Cookie\Middleware\EncryptCookies {}
class Csrf extends Illuminate\Foundation\Http\Middleware\VerifyCsrfToken {}
class Kernel extends Illuminate\Foundation\Http\Kernel {
    protected $bootstrappers = [
        Illuminate\Foundation\Bootstrap\HandleExceptions::class, Illuminate\Foundation\Bootstrap\RegisterFacades::class,
        Illuminate\Foundation\Bootstrap\RegisterProviders::class, Illuminate\Foundation\Bootstrap\BootProviders::class];
    protected $middleware = [Proxies::class];
    protected $middlewareGroups = ['web' => [
        Cookies::class, Illuminate\Cookie\Middleware\AddQueuedCookiesToResponse::class,
        Illuminate\Session\Middleware\StartSession::class, Csrf::class]];
    protected $routeMiddleware = ['signed' => Illuminate\Routing\Middleware\ValidateSignature::class];
}

$app = new Illuminate\Foundation\Application(__DIR__);
$app->singleton(Illuminate\Contracts\Http\Kernel::class, Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, Illuminate\Foundation\Exceptions\Handler::class);
$app->instance('env', 'production');
$app->instance('config', new Illuminate\Config\Repository([
    'app' => ['key' => str_repeat('x', 32), 'cipher' => 'AES-256-CBC', 'env' => 'production', 'debug' => false,
        'url' => 'http://localhost', 'locale' => 'en', 'fallback_locale' => 'en', 'providers' => [
            Illuminate\Cookie\CookieServiceProvider::class, Illuminate\Encryption\EncryptionServiceProvider::class,
            Illuminate\Filesystem\FilesystemServiceProvider::class, Illuminate\Session\SessionServiceProvider::class,
            Illuminate\View\ViewServiceProvider::class, Illuminate\Foundation\Providers\FoundationServiceProvider::class]],
    'session' => ['driver' => 'file', 'files' => __DIR__ . '/storage/framework/sessions', 'lifetime' => 120, 'encrypt' => false,
        'expire_on_close' => false, 'lottery' => [0, 100], 'cookie' => 'shop_session', 'path' => '/', 'domain' => null,
        'secure' => null, 'http_only' => true, 'same_site' => 'lax'],
    'view' => ['paths' => [], 'compiled' => __DIR__ . '/storage/framework/views'],
    'logging' => ['default' => 'single', 'channels' => ['single' => [
        'driver' => 'single', 'path' => __DIR__ . '/storage/logs/laravel.log']]],
]));
$app->booted(function () {
    Route::middleware('web')->group(function () {
        Route::get('/login', fn() => '<form action="' . url('/login') . '"><input name="_token" value="' . csrf_token() . '"></form>');
        Route::post('/login', function (Request $request) {
            $request->session()->regenerate();
            session(['user' => $request->input('user')]);
            return redirect('/account');
        });
        Route::get('/account', fn() => session()->has('user') ? 'hello ' . session('user') : redirect('/login'));
    });
    Route::get('/sign', fn() => URL::signedRoute('file', ['name' => 'a']));
    Route::get('/file/{name}', fn($name) => "file $name")->name('file')->middleware('signed');
    Route::getRoutes()->refreshNameLookups();
});
$kernel = $app->make(Illuminate\Contracts\Http\Kernel::class);
$response = $kernel->handle($request = Request::capture());
$response->send();
$kernel->terminate($request, $response);
